-- How many films there are whose titles hold a text, in whatever case.
SELECT count() AS films
FROM
(
    SELECT argMax(title, version) AS title
    FROM movies
    GROUP BY movie_id
)
WHERE positionCaseInsensitiveUTF8(title, {text:String}) > 0

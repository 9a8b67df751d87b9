-- Films whose titles hold a text, in whatever case, by title; those that come after one.
SELECT
    movie_id,
    latest.1 AS title,
    latest.2 AS duration_seconds,
    latest.3 AS genres,
    latest.4 AS released,
    lowerUTF8(title) AS sort_title
FROM
(
    SELECT movie_id, argMax((title, duration_seconds, genres, released), version) AS latest
    FROM movies
    GROUP BY movie_id
)
WHERE positionCaseInsensitiveUTF8(title, {text:String}) > 0
  AND (sort_title, toString(movie_id)) > ({after_title:String}, {after_movie:String})
ORDER BY sort_title, toString(movie_id)
LIMIT {limit:UInt32}

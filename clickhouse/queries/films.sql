-- What the catalogue says of some films. As a tuple: alone, a NULL would give way to what was before it.
SELECT
    movie_id,
    latest.1 AS title,
    latest.2 AS duration_seconds,
    latest.3 AS genres,
    latest.4 AS released
FROM
(
    SELECT movie_id, argMax((title, duration_seconds, genres, released), version) AS latest
    FROM movies
    WHERE movie_id IN {ids:Array(UUID)}
    GROUP BY movie_id
)

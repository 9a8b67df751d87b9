-- The version that no film has exceeded; 0 without films.
SELECT max(version) AS version
FROM movies

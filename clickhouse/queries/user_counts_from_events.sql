-- What one user did between two instants.
SELECT
    countIf(event_type = 'start')  AS starts,
    countIf(event_type = 'finish') AS finishes,
    uniq(reinterpretAsUUID(cityHash64(movie_id))) AS movies
FROM viewing_events
WHERE user_id = {user_id:UUID}
  AND event_time >= {start:DateTime('UTC')} AND event_time < {end:DateTime('UTC')}

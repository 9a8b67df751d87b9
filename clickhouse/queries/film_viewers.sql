-- How many users one film had between two instants.
SELECT uniqCombined64(17)(cityHash64(user_id)) AS viewers
FROM viewing_events
WHERE movie_id = {movie_id:UUID}
  AND event_time >= {start:DateTime('UTC')} AND event_time < {end:DateTime('UTC')}

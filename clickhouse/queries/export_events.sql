-- What is stored of one user, in the order of time: what comes next after an event of theirs.
SELECT
    id,
    user_id,
    movie_id,
    toString(event_type)       AS event_type,
    toUnixTimestamp(event_time) AS time,
    position_seconds,
    session_id,
    metadata
FROM viewing_events
WHERE user_id = {user_id:UUID}
  AND event_time >= toDateTime({after_time:UInt32}, 'UTC')
  AND (event_time, id) > (toDateTime({after_time:UInt32}, 'UTC'), {after_id:UUID})
ORDER BY event_time, id
LIMIT {limit:UInt32}

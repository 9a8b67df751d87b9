-- The films with most starts between two instants.
SELECT
    movie_id,
    countIf(event_type = 'start')  AS starts,
    countIf(event_type = 'finish') AS finishes,
    uniq(reinterpretAsUUID(cityHash64(user_id))) AS viewers
FROM viewing_events
WHERE event_time >= {start:DateTime('UTC')} AND event_time < {end:DateTime('UTC')}
GROUP BY movie_id
-- As text: ClickHouse compares UUIDs by their second half first.
ORDER BY starts DESC, toString(movie_id)
LIMIT {limit:UInt16}

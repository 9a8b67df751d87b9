-- The most sessions that had an event in one minute, of the minutes of each bucket of so many seconds. It reads
-- the events between two instants. A session is a user's, of one film; NULL is a session too.
SELECT
    intDiv(toUnixTimestamp(minute), {bucket_seconds:UInt32}) * {bucket_seconds:UInt32} AS bucket,
    max(sessions) AS most
FROM
(
    SELECT
        toStartOfMinute(event_time) AS minute,
        uniq(cityHash64(
            user_id, movie_id, isNull(session_id),
            ifNull(session_id, toUUID('00000000-0000-0000-0000-000000000000'))
        )) AS sessions
    FROM viewing_events
    WHERE event_time >= {start:DateTime('UTC')} AND event_time < {end:DateTime('UTC')}
    GROUP BY minute
)
GROUP BY bucket
-- Minute by minute, as the table is sorted: not the sessions of all minutes at a time in memory.
SETTINGS optimize_aggregation_in_order = 1

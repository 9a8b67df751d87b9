-- How long all users watched between two instants. It reads the events of that time.
SELECT sumIf(greatest(0, least(moved, passed)), place > 1) AS watch_time
FROM
(
    -- Each event with the one before it in its session; the first of a session has none.
    -- Events without a session_id form one session for each user and film (NULLs are one group).
    SELECT
        toInt64(position_seconds) - lagInFrame(toInt64(position_seconds)) OVER session AS moved,
        toUnixTimestamp(event_time) - lagInFrame(toUnixTimestamp(event_time)) OVER session AS passed,
        row_number() OVER session AS place
    FROM viewing_events
    WHERE event_time >= {start:DateTime('UTC')} AND event_time < {end:DateTime('UTC')}
    WINDOW session AS
    (
        PARTITION BY user_id, movie_id, session_id
        ORDER BY event_time, position_seconds
        ROWS BETWEEN 1 PRECEDING AND CURRENT ROW
    )
)
-- What doesn't fit in so much memory is sorted on the disk.
SETTINGS max_bytes_before_external_sort = 500000000

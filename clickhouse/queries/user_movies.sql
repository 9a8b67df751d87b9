-- What one user did with each film between two instants, the most watched first.
WITH steps AS
(
    -- Each event with the one before it in its session; the first of a session has none.
    -- Events without a session_id form one session for each film (NULLs are one group).
    SELECT
        movie_id,
        event_type,
        event_time,
        toInt64(position_seconds) - lagInFrame(toInt64(position_seconds)) OVER session AS moved,
        toUnixTimestamp(event_time) - lagInFrame(toUnixTimestamp(event_time)) OVER session AS passed,
        row_number() OVER session AS place
    FROM viewing_events
    WHERE user_id = {user_id:UUID}
      AND event_time >= {start:DateTime('UTC')} AND event_time < {end:DateTime('UTC')}
    WINDOW session AS
    (
        PARTITION BY movie_id, session_id
        ORDER BY event_time, position_seconds
        ROWS BETWEEN 1 PRECEDING AND CURRENT ROW
    )
)
SELECT
    movie_id,
    countIf(event_type = 'start')                       AS starts,
    countIf(event_type = 'finish')                      AS finishes,
    count()                                             AS events,
    sumIf(greatest(0, least(moved, passed)), place > 1) AS watched,
    toUnixTimestamp(max(event_time))                    AS last_time
FROM steps
GROUP BY movie_id
ORDER BY watched DESC, events DESC, toString(movie_id)

-- How long one user watched between two instants, and which film most.
WITH
    steps AS
    (
        -- Each event with the one before it in its session; the first of a session has none.
        -- Events without a session_id form one session for each film (NULLs are one group).
        SELECT
            movie_id,
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
    ),
    films AS
    (
        -- A pause adds nothing, a jump forward at most the time that passed, a jump back nothing.
        SELECT
            movie_id,
            sumIf(greatest(0, least(moved, passed)), place > 1) AS watched,
            count()                                             AS events
        FROM steps
        GROUP BY movie_id
    )
SELECT
    sum(watched) AS watch_time,
    -- The greatest watch time, then more events, then the smaller id.
    if(count() = 0, NULL, argMin(toString(movie_id), (-watched, -toInt64(events), toString(movie_id))))
        AS most_watched
FROM films

-- How many users watched each step of one film between two instants, so many seconds each, and how many of
-- them watched a second of it twice or more. Nothing behind a position.
WITH
    moves AS
    (
        -- Each event with the one before it in its session; the first of a session has none.
        -- Events without a session_id form one session for each user (NULLs are one group).
        SELECT
            user_id,
            lagInFrame(toInt64(position_seconds)) OVER session AS begin,
            toInt64(position_seconds) - begin AS moved,
            toUnixTimestamp(event_time) - lagInFrame(toUnixTimestamp(event_time)) OVER session AS passed,
            row_number() OVER session AS place
        FROM viewing_events
        WHERE movie_id = {movie_id:UUID}
          AND event_time >= {start:DateTime('UTC')} AND event_time < {end:DateTime('UTC')}
        WINDOW session AS
        (
            PARTITION BY user_id, session_id
            ORDER BY event_time, position_seconds
            ROWS BETWEEN 1 PRECEDING AND CURRENT ROW
        )
    ),
    stretches AS
    (
        -- What was watched: from where it began, as many seconds as count as watch time.
        SELECT
            user_id,
            begin,
            least(begin + least(moved, passed), {last_position:Int64}) AS end
        FROM moves
        WHERE place > 1 AND moved > 0 AND passed > 0 AND begin < {last_position:Int64}
    ),
    repeats AS
    (
        -- With how far those reach that began before it, or at the same place: up to there it is seen again.
        SELECT
            user_id,
            begin,
            end,
            least(end, max(end) OVER (
                PARTITION BY user_id ORDER BY begin, end ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            )) AS seen_again_until
        FROM stretches
    )
SELECT
    arrayJoin(range(toUInt64(intDiv(begin, {step:UInt32})), toUInt64(intDiv(end - 1, {step:UInt32}) + 1))) AS number,
    uniqCombined64(17)(cityHash64(user_id)) AS viewers,
    uniqCombined64If(17)(cityHash64(user_id), seen_again_until > greatest(begin, toInt64(number * {step:UInt32}))) AS rewatchers
FROM repeats
GROUP BY number
-- What doesn't fit in so much memory is sorted on the disk.
SETTINGS max_bytes_before_external_sort = 500000000

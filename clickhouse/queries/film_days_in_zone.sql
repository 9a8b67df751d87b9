-- What one film had on each local day between two instants, by quarters of an hour from the events'
-- projection. `day` counts from 0, the first of them.
WITH
    toUnixTimestamp(quarter) AS utc,
    utc + {offset_seconds:Array(Int32)}[arrayLastIndex(start -> start <= utc, {offset_starts:Array(UInt32)})]
        AS local
SELECT
    toDate(toDateTime(local, 'UTC')) - {first_day:Date} AS day,
    sum(quarters.starts)     AS starts,
    sum(quarters.finishes)   AS finishes,
    uniqMerge(quarters.users) AS users
FROM
(
    SELECT
        toStartOfFifteenMinutes(event_time) AS quarter,
        countIf(event_type = 'start')       AS starts,
        countIf(event_type = 'finish')      AS finishes,
        uniqState(reinterpretAsUUID(cityHash64(user_id))) AS users
    FROM viewing_events
    WHERE quarter >= {start:DateTime('UTC')} AND quarter < {end:DateTime('UTC')}
      AND movie_id = {movie_id:UUID}
    GROUP BY quarter, movie_id
) AS quarters
GROUP BY day

-- What happened on each local day between two instants. `day` counts from 0, the first of them.
WITH
    toUnixTimestamp(quarter) AS utc,
    utc + {offset_seconds:Array(Int32)}[arrayLastIndex(start -> start <= utc, {offset_starts:Array(UInt32)})]
        AS local
SELECT
    toDate(toDateTime(local, 'UTC')) - {first_day:Date} AS day,
    sum(traffic_mv.starts)   AS starts,
    sum(traffic_mv.finishes) AS finishes
FROM traffic_mv
WHERE quarter >= {start:DateTime('UTC')} AND quarter < {end:DateTime('UTC')}
GROUP BY day

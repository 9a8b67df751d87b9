-- What happened in each hour of the week on the local clock between two instants. Hour 0 is Monday's first;
-- 1970-01-01 was a Thursday.
WITH
    toUnixTimestamp(quarter) AS utc,
    utc + {offset_seconds:Array(Int32)}[arrayLastIndex(start -> start <= utc, {offset_starts:Array(UInt32)})]
        AS local
SELECT
    (intDiv(local, 3600) + 72) % 168 AS hour,
    sum(traffic_mv.events)           AS events
FROM traffic_mv
WHERE quarter >= {start:DateTime('UTC')} AND quarter < {end:DateTime('UTC')}
GROUP BY hour

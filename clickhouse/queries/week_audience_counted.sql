-- How many users there were in some hours of the week on the local clock. It takes ten times as long as
-- `week_audience`.
WITH
    toUnixTimestamp(begin) AS utc,
    utc + {offset_seconds:Array(Int32)}[arrayLastIndex(start -> start <= utc, {offset_starts:Array(UInt32)})]
        AS local
SELECT
    (intDiv(local, 3600) + 72) % 168            AS hour,
    uniqCombined64Merge(17)(audience_mv.users)  AS ids
FROM audience_mv
WHERE minutes = {block_minutes:UInt16} AND days = 1
  AND begin >= {start:DateTime('UTC')} AND begin < {end:DateTime('UTC')}
  AND hour IN {hours:Array(UInt16)}
GROUP BY hour

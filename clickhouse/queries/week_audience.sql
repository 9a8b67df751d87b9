-- How many places of 2^20 the hashes of users take in each hour of the week on the local clock, from the blocks
-- of so many minutes between two instants. Hour 0 is Monday's first; 1970-01-01 was a Thursday.
WITH
    toUnixTimestamp(begin) AS utc,
    utc + {offset_seconds:Array(Int32)}[arrayLastIndex(start -> start <= utc, {offset_starts:Array(UInt32)})]
        AS local
SELECT
    (intDiv(local, 3600) + 72) % 168            AS hour,
    groupBitmapMerge(audience_mv.user_places)   AS ids
FROM audience_mv
WHERE minutes = {block_minutes:UInt16} AND days = 1
  AND begin >= {start:DateTime('UTC')} AND begin < {end:DateTime('UTC')}
GROUP BY hour

-- How many users or films there were on each local day or in each hour of the local clock. It takes ten
-- times as long as `audience`.
-- From blocks that each lie within one of them: how long they are, of how many days, and their begins.
WITH
    toUnixTimestamp(begin) AS utc,
    utc + {offset_seconds:Array(Int32)}[arrayLastIndex(start -> start <= utc, {offset_starts:Array(UInt32)})]
        AS local
SELECT
    if(
        {by_hour:Bool},
        intDiv(local, 3600) % 24,
        toDate(toDateTime(local, 'UTC')) - {first_day:Date}
    ) AS `group`,
    if(
        {of_movies:Bool},
        uniqCombined64Merge(17)(audience_mv.movies),
        uniqCombined64Merge(17)(audience_mv.users)
    ) AS ids
FROM audience_mv
WHERE (minutes, days, begin) IN
(
    SELECT arrayJoin(arrayZip(
        {minutes:Array(UInt16)}, {days:Array(UInt8)}, {begins:Array(DateTime('UTC'))}
    ))
)
GROUP BY `group`

-- How many users or films there were in a union of blocks: how long they are, of how many days, and their
-- begins. It takes ten times as long as `audience_total`.
SELECT
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

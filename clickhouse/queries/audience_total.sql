-- How many places of 2^20 the hashes of users take, and those of films, in a union of blocks: how long they
-- are, of how many days, and their begins.
SELECT
    groupBitmapMerge(audience_mv.user_places) AS users,
    groupBitmapMerge(audience_mv.movie_places) AS movies
FROM audience_mv
WHERE (minutes, days, begin) IN
(
    SELECT arrayJoin(arrayZip(
        {minutes:Array(UInt16)}, {days:Array(UInt8)}, {begins:Array(DateTime('UTC'))}
    ))
)

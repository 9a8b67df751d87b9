-- Which messages of a partition were rejected and kept before, from an offset on, and why.
SELECT
    `offset`,
    any(reason) AS reason
FROM rejected_events
WHERE topic = {topic:String}
  AND `partition` = {partition:Int32}
  AND `offset` >= {offset:Int64}
GROUP BY `offset`

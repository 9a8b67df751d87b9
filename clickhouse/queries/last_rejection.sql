-- The last message of a partition that was rejected and kept; -1 before the first.
SELECT ifNull(maxOrNull(`offset`), -1) AS last
FROM rejected_events
WHERE topic = {topic:String}
  AND `partition` = {partition:Int32}

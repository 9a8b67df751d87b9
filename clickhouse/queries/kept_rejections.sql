-- Which messages of a partition were rejected and kept before, of a range of offsets. Where a topic was
-- removed and made again there may be several of one offset: the latest is what was read last.
SELECT
    `offset`,
    argMax(reason, received_at)       AS reason,
    argMax(detail, received_at)       AS detail,
    argMax(hex(payload), received_at) AS payload
FROM rejected_events
WHERE topic = {topic:String}
  AND `partition` = {partition:Int32}
  AND `offset` BETWEEN {first:Int64} AND {last:Int64}
GROUP BY `offset`

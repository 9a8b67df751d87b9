-- Which partitions of some tables have rows.
SELECT DISTINCT table, partition_id
FROM system.parts
WHERE database = currentDatabase()
  AND table IN {tables:Array(String)}
  AND active AND rows > 0

-- The parts of some tables that were replaced or merged, and are on the disk still.
SELECT table, name
FROM system.parts
WHERE database = currentDatabase()
  AND table IN {tables:Array(String)}
  AND NOT active

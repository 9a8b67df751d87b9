-- The tables whose names begin so, and what is said of them.
SELECT name, comment
FROM system.tables
WHERE database = currentDatabase()
  AND startsWith(name, {prefix:String})
ORDER BY name

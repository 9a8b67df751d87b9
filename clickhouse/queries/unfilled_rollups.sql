-- The rollups that lack what was stored before their view was made.
SELECT substring(name, length('unfilled_') + 1) AS table
FROM system.tables
WHERE database = currentDatabase()
  AND startsWith(name, 'unfilled_')

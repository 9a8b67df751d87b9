-- The table of the lease to write: its name says who has it.
SELECT name
FROM system.tables
WHERE database = currentDatabase()
  AND startsWith(name, 'write_lease_')
-- It is asked many times a second by those who wait.
SETTINGS log_queries = 0

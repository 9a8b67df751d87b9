-- The table of the lease to write: its name says who has it.
SELECT name
FROM system.tables
WHERE database = currentDatabase()
  AND startsWith(name, 'write_lease_')

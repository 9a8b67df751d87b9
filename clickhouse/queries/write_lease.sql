-- The table of the lease to write, whose name says who has it, and how many wait for it.
SELECT
    name,
    (SELECT count() FROM system.processes WHERE Settings['log_comment'] = {waiting_mark:String}) AS waiting
FROM system.tables
WHERE database = currentDatabase()
  AND startsWith(name, 'write_lease_')
-- It is asked many times a second by those who wait.
SETTINGS log_queries = 0

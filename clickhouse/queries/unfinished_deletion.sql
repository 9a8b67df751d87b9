-- What is still to be deleted from a table, and why it may take so long.
SELECT latest_fail_reason AS problem
FROM system.mutations
WHERE database = currentDatabase()
  AND table = {table:String}
  AND NOT is_done

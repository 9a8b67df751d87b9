-- What tells this database from one of the same name that was dropped before.
SELECT toString(uuid) AS uuid
FROM system.databases
WHERE name = currentDatabase()

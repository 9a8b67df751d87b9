-- How long tables keep their rows, as they are made, and what is said of them.
SELECT
    name,
    comment,
    extract(engine_full, ' TTL (.*?)(?: SETTINGS |$)') AS ttl
FROM system.tables
WHERE database = currentDatabase()
  AND name IN {tables:Array(String)}
  AND ttl != ''

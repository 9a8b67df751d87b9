-- The rollups over viewing_events: the tables that materialized views fill from it.
-- `source` is the view's SELECT, its tables named without the database.
SELECT
    extract(views.create_table_query, ' TO [^ .]+\\.([^ (]+)') AS table,
    replaceRegexpAll(views.as_select, '`?\\b' || currentDatabase() || '\\b`?\\.', '') AS source,
    groupArrayIf(columns.name, columns.is_in_sorting_key)     AS keys,
    groupArrayIf(columns.name, NOT columns.is_in_sorting_key AND columns.type = 'UInt64') AS sums,
    groupArrayIf(columns.name, columns.type LIKE 'AggregateFunction(%')                   AS states
FROM system.tables AS views
INNER JOIN
(
    SELECT table, name, type, is_in_sorting_key
    FROM system.columns
    WHERE database = currentDatabase()
    ORDER BY table, position
) AS columns ON columns.table = extract(views.create_table_query, ' TO [^ .]+\\.([^ (]+)')
WHERE views.database = currentDatabase()
  AND views.engine = 'MaterializedView'
  AND views.as_select LIKE '%viewing_events%'
GROUP BY views.name, table, source
ORDER BY views.name

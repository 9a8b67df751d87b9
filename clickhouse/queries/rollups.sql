-- The rollups over viewing_events: the tables that materialized views fill from it.
-- `source` is the view's SELECT, its tables named without the database. On a cluster a view is that of
-- one node, and its tables are named as those that stand for all nodes: without `_local` at the end.
WITH
    extract(views.create_table_query, ' TO [^ .]+\\.([^ (]+)')       AS target,
    replaceRegexpAll(views.as_select, '`?\\b' || currentDatabase() || '\\b`?\\.', '') AS select
SELECT
    replaceRegexpOne(target, '_local$', '')                   AS table,
    replaceRegexpAll(select, '\\b(\\w+)_local\\b', '\\1')     AS source,
    groupArrayIf(columns.name, columns.is_in_sorting_key)     AS keys,
    groupArrayIf(columns.name, NOT columns.is_in_sorting_key AND columns.type = 'UInt64') AS sums,
    groupArrayIf(columns.name, columns.type LIKE 'AggregateFunction(%')                   AS states,
    groupArrayIf(columns.type, columns.type LIKE 'AggregateFunction(%')                   AS state_types,
    groupArrayIf(columns.name, columns.is_in_sorting_key AND columns.type LIKE 'Date%')   AS times
FROM system.tables AS views
INNER JOIN
(
    SELECT table, name, type, is_in_sorting_key
    FROM system.columns
    WHERE database = currentDatabase()
    ORDER BY table, position
) AS columns ON columns.table = target
WHERE views.database = currentDatabase()
  AND views.engine = 'MaterializedView'
  AND views.as_select LIKE '%viewing_events%'
GROUP BY views.name, table, source
ORDER BY views.name

-- How many bytes a row of a table has, states of aggregate functions included.
SELECT intDiv(sum(data_uncompressed_bytes), greatest(sum(rows), 1)) AS bytes
FROM system.parts
WHERE active
  AND database = currentDatabase()
  AND table = {table:String}

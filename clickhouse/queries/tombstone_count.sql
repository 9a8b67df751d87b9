-- Whether users were erased since: the table only grows, but for repeats that are merged.
SELECT count() AS tombstones
FROM erased_users

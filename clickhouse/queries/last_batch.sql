-- The number of the last flush of which anything reached the store, if it is greater than another; else 0.
SELECT max(batch_id) AS last_batch
FROM viewing_events
WHERE batch_id > {after:UInt64}

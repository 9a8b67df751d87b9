-- The number of the last flush of which anything reached the store; 0 before the first.
SELECT max(batch_id) AS batch_id
FROM viewing_events

-- The number of the last flush of which anything reached the store, or one that is not greater than
-- another. First of the latest events, which are few; then only what has a greater number is read, and
-- the index of batch_id knows where that is. At once it would be the whole column: seconds, when there are
-- 100 million.
WITH
(
    SELECT max(batch_id)
    FROM viewing_events
    WHERE event_time >= (SELECT max(event_time) FROM viewing_events) - INTERVAL 1 HOUR
) AS recent
SELECT greatest(max(batch_id), recent) AS last_batch
FROM viewing_events
WHERE batch_id > greatest({after:UInt64}, recent)

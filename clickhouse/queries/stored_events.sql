-- Which of these events the store has. The times find the few granules that can hold them; the ids
-- decide. An id at another time comes back as well: the pair is compared by the caller.
SELECT id, toUnixTimestamp(event_time) AS event_time
FROM viewing_events
WHERE event_time IN {times:Array(DateTime('UTC'))}
  AND id IN {ids:Array(UUID)}

-- Which of many events, the incoming ones, the store has. The times find the few granules that can hold them; the
-- ids decide. An id at another time comes back as well: the pair is compared by the caller.
-- GLOBAL: on a cluster, the incoming events are known to one node alone.
SELECT id, toUnixTimestamp(event_time) AS event_time
FROM viewing_events
WHERE event_time GLOBAL IN (SELECT toDateTime(new.event_time, 'UTC') FROM incoming AS new)
  AND id GLOBAL IN (SELECT new.id FROM incoming AS new)

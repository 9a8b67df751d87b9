-- Which of these ids the store has had since an instant, and when last.
SELECT id, toUnixTimestamp(max(event_time)) AS last_time
FROM viewing_events
WHERE event_time >= {since:DateTime('UTC')}
  AND id IN {ids:Array(UUID)}
GROUP BY id

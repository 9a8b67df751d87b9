-- How many events there are on each UTC day that has any, of a range of days.
SELECT toDate(event_time) AS day, count() AS events
FROM viewing_events
WHERE event_time >= toDateTime({first_day:Date}, 'UTC')
  AND event_time < toDateTime({last_day:Date} + 1, 'UTC')
GROUP BY day
ORDER BY day

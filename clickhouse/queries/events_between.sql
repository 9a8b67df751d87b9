-- How many events have a time between two instants.
SELECT count() AS events
FROM viewing_events
WHERE event_time >= {start:DateTime('UTC')} AND event_time < {end:DateTime('UTC')}

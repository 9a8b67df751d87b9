-- How many events have a time within so many seconds before now.
SELECT count() AS events
FROM viewing_events
WHERE event_time > {now:DateTime('UTC')} - {seconds:UInt32} AND event_time <= {now:DateTime('UTC')}

-- What happened between two instants, of all films.
SELECT
    sum(traffic_mv.starts)   AS starts,
    sum(traffic_mv.finishes) AS finishes,
    sum(traffic_mv.events)   AS events
FROM traffic_mv
WHERE quarter >= {start:DateTime('UTC')} AND quarter < {end:DateTime('UTC')}

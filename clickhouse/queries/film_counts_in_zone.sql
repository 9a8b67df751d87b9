-- What some films had between two instants: of the UTC days that lie between them as a whole from the rollup,
-- and of what is left at both ends by quarters of an hour from the events' projection.
SELECT
    movie_id,
    sum(pieces.starts)        AS starts,
    sum(pieces.finishes)      AS finishes,
    uniqMerge(pieces.viewers) AS viewers
FROM
(
    SELECT
        movie_id,
        sum(popular_content_mv.starts)              AS starts,
        sum(popular_content_mv.finishes)            AS finishes,
        uniqMergeState(popular_content_mv.viewers)  AS viewers
    FROM popular_content_mv
    WHERE event_date >= toDate({whole_start:DateTime('UTC')}) AND event_date < toDate({whole_end:DateTime('UTC')})
      AND movie_id IN {ids:Array(UUID)}
    GROUP BY movie_id
    UNION ALL
    SELECT
        movie_id,
        countIf(event_type = 'start')  AS starts,
        countIf(event_type = 'finish') AS finishes,
        uniqState(reinterpretAsUUID(cityHash64(user_id))) AS viewers
    FROM viewing_events
    WHERE (toStartOfFifteenMinutes(event_time) >= {start:DateTime('UTC')}
            AND toStartOfFifteenMinutes(event_time) < {whole_start:DateTime('UTC')}
        OR toStartOfFifteenMinutes(event_time) >= {whole_end:DateTime('UTC')}
            AND toStartOfFifteenMinutes(event_time) < {end:DateTime('UTC')})
      AND movie_id IN {ids:Array(UUID)}
    GROUP BY movie_id
) AS pieces
GROUP BY movie_id

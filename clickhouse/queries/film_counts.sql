-- What some films had in a range of UTC days.
SELECT
    movie_id,
    sum(popular_content_mv.starts)        AS starts,
    sum(popular_content_mv.finishes)      AS finishes,
    uniqMerge(popular_content_mv.viewers) AS viewers
FROM popular_content_mv
WHERE event_date BETWEEN {first_day:Date} AND {last_day:Date}
  AND movie_id IN {ids:Array(UUID)}
GROUP BY movie_id

-- What one film had on each UTC day of a range. `day` counts from 0, the first of them.
SELECT
    event_date - {first_day:Date}         AS day,
    sum(popular_content_mv.starts)        AS starts,
    sum(popular_content_mv.finishes)      AS finishes,
    uniqMerge(popular_content_mv.viewers) AS users
FROM popular_content_mv
WHERE event_date BETWEEN {first_day:Date} AND {last_day:Date}
  AND movie_id = {movie_id:UUID}
GROUP BY day

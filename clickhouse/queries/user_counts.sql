-- What one user did in a range of UTC days.
SELECT
    sum(user_stats_mv.starts)       AS starts,
    sum(user_stats_mv.finishes)     AS finishes,
    uniqMerge(user_stats_mv.movies) AS movies
FROM user_stats_mv
WHERE user_id = {user_id:UUID}
  AND event_date BETWEEN {first_day:Date} AND {last_day:Date}

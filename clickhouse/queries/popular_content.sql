-- The films with most starts in a range of UTC days. The viewers are merged for those films only:
-- counts of all films are cheap, their states are not.
WITH top AS
(
    SELECT movie_id
    FROM popular_content_mv
    WHERE event_date BETWEEN {first_day:Date} AND {last_day:Date}
    GROUP BY movie_id
    ORDER BY sum(starts) DESC, toString(movie_id)
    LIMIT {limit:UInt16}
)
SELECT
    movie_id,
    sum(popular_content_mv.starts)   AS starts,
    sum(popular_content_mv.finishes) AS finishes,
    uniqMerge(popular_content_mv.viewers) AS viewers
FROM popular_content_mv
WHERE event_date BETWEEN {first_day:Date} AND {last_day:Date}
  AND movie_id IN top
GROUP BY movie_id
-- As text: ClickHouse compares UUIDs by their second half first.
ORDER BY starts DESC, toString(movie_id)

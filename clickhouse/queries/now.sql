-- Which films are being watched: by sessions that had an event since an instant, the last of which is
-- not a finish. The last by time, then position; of equal ones a finish.
WITH watching AS
(
    SELECT user_id, movie_id
    FROM viewing_events
    WHERE event_time >= {since:DateTime('UTC')}
    GROUP BY user_id, movie_id, session_id
    HAVING argMax(event_type, (event_time, position_seconds, event_type)) != 'finish'
)
SELECT
    movie_id,
    count()             AS sessions,
    uniqExact(user_id)  AS viewers,
    (SELECT uniqExact(user_id) FROM watching) AS all_viewers
FROM watching
GROUP BY movie_id
ORDER BY sessions DESC, toString(movie_id)

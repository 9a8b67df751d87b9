-- To wait where others can see it.
SELECT sleep({seconds:Float64}) AS slept
SETTINGS log_queries = 0

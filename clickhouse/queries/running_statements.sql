-- How many statements run that carry a mark.
SELECT count() AS running
FROM system.processes
WHERE Settings['log_comment'] = {mark:String}
SETTINGS log_queries = 0

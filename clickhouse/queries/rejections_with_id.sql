-- Which rejected messages hold an id, in either case, with or without hyphens.
SELECT topic, `partition`, `offset`, toString(cityHash64(payload)) AS hash
FROM rejected_events
WHERE position(lower(replaceAll(payload, '-', '')), {id_digits:String}) > 0

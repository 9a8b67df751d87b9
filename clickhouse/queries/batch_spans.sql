-- Numbers of batches between which there are about as many events each, the last one included.
SELECT arrayJoin(arraySort(arrayDistinct(arrayPushBack(
    arrayMap(number -> toUInt64(number), quantiles(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)(batch_id)),
    max(batch_id)
)))) AS last_batch
FROM viewing_events

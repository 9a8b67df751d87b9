-- Every table and view of the service. Applied at start, statement by statement; running it again
-- changes nothing.
--
-- A rollup is a table and the materialized view that fills it. Repair after a crash works for any
-- rollup over viewing_events in which
--   * every column outside the ORDER BY is a UInt64 that is summed, or a state that is the same when it
--     is merged twice (uniq, uniqCombined64, groupBitmap);
--   * where there are sums, `events` counts all events: it is never 0, and SummingMergeTree drops rows
--     whose sums are all 0;
--   * the ORDER BY holds what the view groups by, and nothing else.
-- So that days can be audited and rebuilt, one column of the ORDER BY is a Date or a DateTime in UTC: the
-- UTC day that a row is about, or a moment of it. A row that is about several days one after another has
-- a column `days` in the ORDER BY, that time in the first of them, and no sums.
--
-- uniq() tells UUIDs apart by the XOR of their halves, so it takes 11111111-1111-1111-1111-111111111111
-- and 22222222-2222-2222-2222-222222222222 for one. Wherever ids are counted, here and in the
-- queries, uniq() is given their hash instead, in the same type: reinterpretAsUUID(cityHash64(id)).
-- What else counts ids is given cityHash64(id) as it is.


-- The events, one row each. All figures can be computed from this table alone.
CREATE TABLE IF NOT EXISTS viewing_events
(
    -- The idempotency key: the producer's event_id, or derived from the other fields. Nothing can be
    -- saved on a hash; every look-up of repeats reads it, and has it twice as fast as it is.
    id               UUID CODEC(NONE),
    -- The events of a sitting are minutes apart, and so many rows: blocks of 4 MiB find them again, of
    -- the usual size don't. With all codecs here an event takes 28 bytes instead of 50.
    user_id          UUID CODEC(ZSTD(3))
        SETTINGS (min_compress_block_size = 4194304, max_compress_block_size = 4194304),
    movie_id         UUID CODEC(ZSTD(3))
        SETTINGS (min_compress_block_size = 4194304, max_compress_block_size = 4194304),
    -- One byte, and a fourth kind of event can't slip in.
    event_type       Enum8('start' = 1, 'progress' = 2, 'finish' = 3),
    -- UTC whatever the server's own zone is.
    event_time       DateTime('UTC') CODEC(Delta, ZSTD(1)),
    position_seconds UInt32 CODEC(ZSTD(1)),
    -- NULL is "no session", which no UUID can stand for.
    session_id       Nullable(UUID) CODEC(ZSTD(3))
        SETTINGS (min_compress_block_size = 4194304, max_compress_block_size = 4194304),
    -- JSON text as the producer sent it, without the spaces between tokens.
    metadata         String CODEC(ZSTD(1)),
    -- The flush a row came with. Only the greatest can have been torn by a crash.
    batch_id         UInt64 CODEC(Delta, ZSTD(1)),

    -- A user's or a film's rows are few and scattered over time, which the ORDER BY can't find: for
    -- looking into the table by hand, and for stores from before by_user.
    INDEX user_id_bloom  user_id  TYPE bloom_filter GRANULARITY 1,
    INDEX movie_id_bloom movie_id TYPE bloom_filter GRANULARITY 1,
    -- Finds the last batch without reading the whole column.
    INDEX batch_id_range batch_id TYPE minmax GRANULARITY 1,

    -- What is asked of one user, side by side: some thousand rows are read, however many there are.
    -- A projection, for it comes and goes with its part: no crash can leave it behind the events.
    PROJECTION by_user
    (
        SELECT user_id, event_time, movie_id, session_id, event_type, position_seconds
        ORDER BY user_id, event_time
    ),

    -- What each film had each quarter of an hour: for the parts of UTC days at both ends of a window in
    -- another zone. As a projection it costs an insert a quarter of what a rollup does.
    PROJECTION films_by_quarter
    (
        SELECT
            toStartOfFifteenMinutes(event_time),
            movie_id,
            countIf(event_type = 'start'),
            countIf(event_type = 'finish'),
            uniqState(reinterpretAsUUID(cityHash64(user_id)))
        GROUP BY toStartOfFifteenMinutes(event_time), movie_id
    )
)
ENGINE = MergeTree
-- Months: few parts an insert, and retention can drop whole parts.
PARTITION BY toYYYYMM(event_time)
-- Time first: every query has a window, and so has the look-up of repeated events.
ORDER BY (event_time, user_id, movie_id)
TTL event_time + INTERVAL 365 DAY
-- An acknowledged event is on the disk, not only in the kernel's memory (CLICKHOUSE_FSYNC): when it is
-- inserted, and when it is merged, after which what was merged stays for a while (the embedded engine
-- would delete it at once).
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 60;


-- What each film had each day (UTC).
CREATE TABLE IF NOT EXISTS popular_content
(
    event_date Date,
    movie_id   UUID,
    starts     UInt64,
    finishes   UInt64,
    events     UInt64,
    -- A state, not a number: viewers of two days can't be added, states can be merged.
    viewers    AggregateFunction(uniq, UUID)
)
-- Without a list of columns: with one, merges keep a single state of those that it leaves out.
ENGINE = SummingMergeTree
PARTITION BY toYYYYMM(event_date)
-- The window is a range of days.
ORDER BY (event_date, movie_id)
-- A day more than the events', whose last day goes hour by hour.
TTL event_date + INTERVAL 366 DAY
-- Small granules: of each day the states of a few films are wanted.
SETTINGS index_granularity = 256, fsync_after_insert = 1, fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 60;

CREATE MATERIALIZED VIEW IF NOT EXISTS popular_content_mv TO popular_content AS
SELECT
    toDate(event_time)               AS event_date,
    movie_id,
    countIf(event_type = 'start')    AS starts,
    countIf(event_type = 'finish')   AS finishes,
    count()                          AS events,
    uniqState(reinterpretAsUUID(cityHash64(user_id)))  AS viewers
FROM viewing_events
GROUP BY event_date, movie_id;


-- What each user did each day (UTC).
CREATE TABLE IF NOT EXISTS user_stats
(
    event_date Date,
    user_id    UUID,
    starts     UInt64,
    finishes   UInt64,
    events     UInt64,
    movies     AggregateFunction(uniq, UUID)
)
ENGINE = SummingMergeTree
PARTITION BY toYYYYMM(event_date)
-- Asked for one user at a time: a user's days lie side by side.
ORDER BY (user_id, event_date)
TTL event_date + INTERVAL 366 DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 60;

CREATE MATERIALIZED VIEW IF NOT EXISTS user_stats_mv TO user_stats AS
SELECT
    toDate(event_time)               AS event_date,
    user_id,
    countIf(event_type = 'start')    AS starts,
    countIf(event_type = 'finish')   AS finishes,
    count()                          AS events,
    uniqState(reinterpretAsUUID(cityHash64(movie_id))) AS movies
FROM viewing_events
GROUP BY event_date, user_id;


-- The whole traffic by quarter of an hour: every time zone's offset is a multiple of 15 minutes, so
-- this one rollup has the counts for the days and hours of all of them. Who they were is in audience.
CREATE TABLE IF NOT EXISTS traffic
(
    quarter  DateTime('UTC'),
    starts   UInt64,
    finishes UInt64,
    events   UInt64
)
ENGINE = SummingMergeTree
PARTITION BY toYYYYMM(quarter)
ORDER BY quarter
TTL quarter + INTERVAL 366 DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 60;

CREATE MATERIALIZED VIEW IF NOT EXISTS traffic_mv TO traffic AS
SELECT
    toStartOfFifteenMinutes(event_time) AS quarter,
    countIf(event_type = 'start')       AS starts,
    countIf(event_type = 'finish')      AS finishes,
    count()                             AS events
FROM viewing_events
GROUP BY quarter;


-- Who watched, and which films, in blocks of several sizes, of which a few make up any local day, or an
-- hour of the clock over many days: what an answer merges depends on its days, not on the events.
-- A block is `minutes` of the day long, and of `days` days one after another: that time of each day.
CREATE TABLE IF NOT EXISTS audience
(
    minutes UInt16,
    days    UInt8,
    -- Of the block's first day.
    begin   DateTime('UTC'),
    -- Exact for up to 8,000 and more, and right within 1 % for any number, but slow to merge.
    users   AggregateFunction(uniqCombined64(17), UInt64),
    movies  AggregateFunction(uniqCombined64(17), UInt64),
    -- Places of 2^20 that somebody's hash takes. Ten times as fast; between some thousands and some
    -- millions the number of the taken tells how many there are, within 0.3 %.
    user_places  AggregateFunction(groupBitmap, UInt32),
    movie_places AggregateFunction(groupBitmap, UInt32)
)
-- No sums: counts of a block of many days would have to be repaired by counting all those days again.
ENGINE = AggregatingMergeTree
-- No partitions: blocks of a week ago and of two months ago would be another part of every insert.
ORDER BY (minutes, days, begin)
TTL begin + toIntervalDay(days + 366)
-- A row may have some 100 KB, and the neighbours of those that are asked for aren't wanted.
SETTINGS index_granularity = 4, fsync_after_insert = 1, fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 60;

-- By quarters first, then each quarter into its blocks: ids are hashed and told apart once.
CREATE MATERIALIZED VIEW IF NOT EXISTS audience_mv TO audience AS
SELECT
    block.1 AS minutes,
    block.2 AS days,
    toDateTime(
        intDiv(toUnixTimestamp(quarter), 86400 * days) * 86400 * days
            + intDiv(toUnixTimestamp(quarter) % 86400, 60 * minutes) * 60 * minutes,
        'UTC'
    ) AS begin,
    uniqCombined64MergeState(17)(quarter_users)  AS users,
    uniqCombined64MergeState(17)(quarter_movies) AS movies,
    groupBitmapMergeState(quarter_user_places)   AS user_places,
    groupBitmapMergeState(quarter_movie_places)  AS movie_places
FROM
(
    SELECT
        toStartOfFifteenMinutes(event_time) AS quarter,
        uniqCombined64State(17)(cityHash64(user_id))  AS quarter_users,
        uniqCombined64State(17)(cityHash64(movie_id)) AS quarter_movies,
        groupBitmapState(toUInt32(cityHash64(user_id) % 1048576))  AS quarter_user_places,
        groupBitmapState(toUInt32(cityHash64(movie_id) % 1048576)) AS quarter_movie_places
    FROM viewing_events
    GROUP BY quarter
)
ARRAY JOIN
    -- Local days are made of the first four, hours of the clock of the others and of the first two.
    CAST(
        [(15, 1), (60, 1), (240, 1), (1440, 1), (15, 4), (15, 16), (15, 64), (60, 4), (60, 16), (60, 64)],
        'Array(Tuple(UInt16, UInt8))'
    ) AS block
GROUP BY minutes, days, begin;


-- Kafka messages that are no events, whole, for whoever has to find out why.
CREATE TABLE IF NOT EXISTS rejected_events
(
    topic       LowCardinality(String),
    `partition` Int32,
    `offset`    Int64,
    reason      LowCardinality(String),
    detail      String,
    -- The bytes as received, which may be no text at all.
    payload     String,
    received_at DateTime('UTC')
)
-- A message that is delivered again is kept once; so no partitions, which are never merged together.
-- By its payload too: where a topic was removed and made again, an offset is another message.
ENGINE = ReplacingMergeTree
ORDER BY (topic, `partition`, `offset`, cityHash64(payload))
TTL received_at + INTERVAL 90 DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 60;


-- Users who were erased: their events are refused from then on. What was removed is not in here: a hash
-- of the id, which tells who comes back, and not who it was.
CREATE TABLE IF NOT EXISTS erased_users
(
    -- Of SHA-256, in hexadecimal: without it, lists of two stores could be compared. One for a store.
    salt        String,
    user_hash   String,
    -- 20 bits of a cheap hash: an event of somebody else is told by it, without SHA-256.
    fingerprint UInt32,
    erased_at   DateTime('UTC')
)
-- One that is written again, after a crash, is the same. No TTL: an erased user stays so.
ENGINE = ReplacingMergeTree
ORDER BY user_hash
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 60;


-- What films are called, and how long they are: the catalogue, as it was last sent.
CREATE TABLE IF NOT EXISTS movies
(
    movie_id         UUID,
    title            String,
    -- NULL is "not known", in both columns that may be.
    duration_seconds Nullable(UInt32),
    genres           Array(String),
    released         Nullable(UInt16),
    -- Greater than those of before: readers take a film's row with the greatest, merged or not.
    version          UInt64
)
-- A film that is sent again replaces itself; so no partitions, which are never merged together.
ENGINE = ReplacingMergeTree
ORDER BY movie_id
-- As durable as the events: what was answered with a receipt is on the disk.
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1, old_parts_lifetime = 60;

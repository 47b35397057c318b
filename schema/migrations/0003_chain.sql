-- The log that proves what was stored (ingest/chain): a leaf for each batch of
-- rows of a cluster, with its signed head after it.
CREATE TABLE IF NOT EXISTS tipstaff.chain_batches
(
    cluster    LowCardinality(String),
    -- leaf is the batch's place in its cluster's log.
    leaf       UInt64 CODEC(DoubleDelta, ZSTD(1)),
    -- batch is what chain_rows call it.
    batch      UInt64,
    rows       UInt32,
    -- The times of its rows, and when it was stored.
    first      DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    last       DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    stored     DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    -- root is the Merkle root of its rows (RFC 6962), base64.
    root       String CODEC(ZSTD(1)),
    -- listed is that of what chain_rows say of them.
    listed     String CODEC(ZSTD(1)),
    -- checkpoint is the signed head of the log with this leaf as its last
    -- (c2sp.org/tlog-checkpoint).
    checkpoint String CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
ORDER BY (cluster, leaf);

-- Which rows are in a batch, in which order, and of each a part of its hash: they
-- tell which row it is where the hash of the whole no longer agrees.
CREATE TABLE IF NOT EXISTS tipstaff.chain_rows
(
    cluster    LowCardinality(String),
    run_key    LowCardinality(String),
    received   DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    audit_id   String CODEC(ZSTD(1)),
    stage      LowCardinality(String),
    stage_time DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    source     LowCardinality(String),
    batch      UInt64 CODEC(ZSTD(1)),
    place      UInt32 CODEC(Delta, ZSTD(1)),
    hash       UInt64
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(received)
PRIMARY KEY (cluster, run_key, received)
ORDER BY (cluster, run_key, received, audit_id, stage, stage_time, source, batch);

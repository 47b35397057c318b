-- Who says that a request was made: empty is the API server, else "proxy". Part
-- of the row's identity, so that neither replaces what the other says.
ALTER TABLE tipstaff.audit_events
    ADD COLUMN IF NOT EXISTS source LowCardinality(String),
    MODIFY ORDER BY (cluster, run_key, received, audit_id, stage, stage_time, source);

-- One row for each exec or attach that an agent asked the proxy for. session is
-- the audit id of its request.
CREATE TABLE IF NOT EXISTS tipstaff.sessions
(
    cluster       LowCardinality(String),
    session       String CODEC(ZSTD(1)),
    started       DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD(1)),

    user          LowCardinality(String),
    issuer        LowCardinality(String),
    run           String CODEC(ZSTD(1)),
    run_key       LowCardinality(String),
    model         LowCardinality(String),
    owner         LowCardinality(String),
    task          String CODEC(ZSTD(1)),
    profile       LowCardinality(String),
    credential_id String CODEC(ZSTD(1)),
    source_ip     LowCardinality(String),
    user_agent    LowCardinality(String),

    verb          LowCardinality(String),
    namespace     LowCardinality(String),
    pod           String CODEC(ZSTD(1)),
    container     LowCardinality(String),
    command       Array(String) CODEC(ZSTD(1)),
    tty           Bool,

    INDEX by_session session TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_run run TYPE bloom_filter(0.01) GRANULARITY 4
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(started)
ORDER BY (cluster, run_key, started, session);

-- What passed in a session, masked. after is microseconds since its start.
CREATE TABLE IF NOT EXISTS tipstaff.session_frames
(
    cluster LowCardinality(String),
    session String CODEC(ZSTD(1)),
    started DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    seq     UInt32 CODEC(DoubleDelta, ZSTD(1)),
    after   Int64 CODEC(DoubleDelta, ZSTD(1)),
    stream  LowCardinality(String),
    data    String CODEC(ZSTD(3))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(started)
ORDER BY (cluster, session, seq, stream, after);

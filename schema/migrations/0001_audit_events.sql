-- One row for each stage of each request that the API server reported.
--
-- The sorting key is the row's identity. All of it is a function of the event,
-- so a redelivered event replaces itself. The audit id alone would not do: the
-- caller may choose it (header Audit-ID), and two requests that share one must
-- both stay.
CREATE TABLE IF NOT EXISTS tipstaff.audit_events
(
    cluster         LowCardinality(String),
    audit_id        String CODEC(ZSTD(1)),
    stage           LowCardinality(String),
    level           LowCardinality(String),
    received        DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    stage_time      DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
    verb            LowCardinality(String),

    user            LowCardinality(String),
    groups          Array(LowCardinality(String)),
    impersonator    LowCardinality(String),
    proxied         Bool,
    issuer          LowCardinality(String),
    run             String CODEC(ZSTD(1)),
    run_key         LowCardinality(String),
    model           LowCardinality(String),
    owner           LowCardinality(String),
    task            String CODEC(ZSTD(1)),
    profile         LowCardinality(String),
    credential_id   String CODEC(ZSTD(1)),
    source_ips      Array(LowCardinality(String)),
    user_agent      LowCardinality(String),

    api_group       LowCardinality(String),
    api_version     LowCardinality(String),
    resource        LowCardinality(String),
    subresource     LowCardinality(String),
    namespace       LowCardinality(String),
    name            String CODEC(ZSTD(1)),
    uri             String CODEC(ZSTD(1)),
    dry_run         Bool,

    code            UInt16,
    reason          LowCardinality(String),
    message         String CODEC(ZSTD(1)),

    verdict         LowCardinality(String),
    rule            LowCardinality(String),
    approval        String CODEC(ZSTD(1)),
    approvers       Array(String),
    decision_reason String CODEC(ZSTD(1)),

    truncated       Bool,
    request_object  String CODEC(ZSTD(1)),
    response_object String CODEC(ZSTD(1)),
    annotations     Map(LowCardinality(String), String) CODEC(ZSTD(1)),

    INDEX by_run run TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_name name TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX by_approval approval TYPE bloom_filter(0.01) GRANULARITY 4
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(received)
PRIMARY KEY (cluster, run_key, received)
ORDER BY (cluster, run_key, received, audit_id, stage, stage_time);

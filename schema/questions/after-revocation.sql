-- Which runs acted after they were revoked?
-- Answered requests only; within the token cache's time a direct read may be one.
SELECT r.cluster AS cluster, r.issuer AS issuer, r.run AS run, any(r.user) AS agent, v.name AS revocation, any(v.user) AS revoked_by, v.received AS revoked,
    min(r.received) AS first, max(r.received) AS last, count() AS requests, groupUniqArray(5)(concat(r.verb, ' ', r.resource)) AS examples
FROM $requests(run_key != '' AND code < 400 AND verb NOT IN ('watch'))$ AS r
INNER JOIN (
    SELECT cluster, name, user, received, JSONExtractString(response_object, 'spec', 'run') AS run, JSONExtractString(response_object, 'spec', 'issuer') AS issuer
    FROM tipstaff.audit_events FINAL
    WHERE api_group = 'tipstaff.dev' AND resource = 'revocations' AND verb = 'create' AND code < 300 AND stage = 'ResponseComplete' AND source = ''
        AND received < {until:DateTime64(6, 'UTC')}
) AS v ON v.cluster = r.cluster AND v.run = r.run
WHERE v.run != '' AND (v.issuer = '' OR v.issuer = r.issuer) AND r.received > v.received
GROUP BY r.cluster, r.issuer, r.run, v.name, v.received
ORDER BY last DESC, run
LIMIT {limit:UInt32}

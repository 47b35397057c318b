-- Which runs acted after they were revoked?
-- Answered requests that came after the revocation and before its end, if it has one; whether it was deleted since is not looked at. Within the token cache's time a direct read may be one.
SELECT r.cluster AS cluster, r.issuer AS issuer, r.run AS run, any(r.user) AS agent, v.name AS revocation, any(v.by) AS revoked_by, any(v.at) AS revoked,
    min(r.received) AS first, max(r.received) AS last, $tries$ AS requests, groupUniqArray(5)(concat(r.verb, ' ', r.resource)) AS examples
FROM $requests(run_key != '' AND code BETWEEN 100 AND 399 AND verb != 'watch')$ AS r
INNER JOIN (
    SELECT cluster, name, user AS by, received AS at, JSONExtractRaw(if(response_object = '', request_object, response_object), 'spec') AS spec,
        JSONExtractString(spec, 'run') AS run, JSONExtractString(spec, 'issuer') AS issuer, JSONExtractString(spec, 'subject') AS subject,
        JSONExtractString(spec, 'agent') AS agent, JSONExtractString(spec, 'owner') AS owner, JSONExtractString(spec, 'credentialID') AS credential_id,
        parseDateTime64BestEffortOrNull(JSONExtractString(spec, 'until'), 6, 'UTC') AS until
    FROM tipstaff.audit_events FINAL
    WHERE api_group = 'tipstaff.dev' AND resource = 'revocations' AND subresource = '' AND verb IN ('create', 'patch') AND code = 201 AND NOT dry_run
        AND stage = 'ResponseComplete' AND source = '' AND received < {until:DateTime64(6, 'UTC')}
) AS v ON v.cluster = r.cluster
WHERE r.received > v.at AND (v.until IS NULL OR r.received < v.until)
    AND (v.run != '' OR v.issuer != '' OR v.subject != '' OR v.agent != '' OR v.owner != '' OR v.credential_id != '')
    AND (v.run = '' OR v.run = r.run) AND (v.issuer = '' OR v.issuer = r.issuer) AND (v.agent = '' OR v.agent = r.user)
    AND (v.subject = '' OR concat('agent:', r.issuer, ':', v.subject) = r.user) AND (v.owner = '' OR v.owner = r.owner)
    AND (v.credential_id = '' OR v.credential_id = r.credential_id)
GROUP BY r.cluster, r.issuer, r.run, v.name
ORDER BY last DESC, run
LIMIT {limit:UInt32}

-- Which runs had a shell, a port or a proxied connection, and where?
SELECT received, cluster, issuer, run, owner, verb, resource, subresource, namespace, name, code, verdict, rule, approvers, proxied, audit_id AS session
FROM $requests(run_key != '' AND subresource IN ('exec', 'attach', 'portforward', 'proxy', 'ephemeralcontainers'))$
ORDER BY received, cluster, audit_id
LIMIT {limit:UInt32}

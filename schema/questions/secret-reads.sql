-- Which runs read Secrets, and which of them?
SELECT cluster, issuer, run, any(user) AS agent, any(owner) AS owner, namespace, verb, count() AS reads, countIf(code BETWEEN 100 AND 399) AS answered,
    countIf(proxied) AS masked, groupUniqArray(20)(name) AS names, max(received) AS last
FROM $requests(resource = 'secrets' AND api_group = '' AND verb IN ('get', 'list', 'watch') AND run_key != '')$
GROUP BY cluster, issuer, run, namespace, verb
ORDER BY reads DESC, run, namespace, verb
LIMIT {limit:UInt32}

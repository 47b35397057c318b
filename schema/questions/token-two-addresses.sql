-- Which token came from more than one address?
-- The first address is the connection's as the API server saw it last.
SELECT cluster, issuer, credential_id, any(run) AS run, any(user) AS agent, any(owner) AS owner, arraySort(groupUniqArray(20)(source_ips[-1])) AS addresses,
    min(received) AS first, max(received) AS last, count() AS requests
FROM $requests(credential_id != '' AND run_key != '' AND NOT proxied)$
GROUP BY cluster, issuer, credential_id
HAVING length(addresses) > 1
ORDER BY last DESC, credential_id
LIMIT {limit:UInt32}

-- The runs of agents, the one that acted last first.
-- A request counts once, whatever stages of it were reported.
SELECT
    cluster,
    issuer,
    run,
    run_key,
    any(user)                                              AS user,
    any(model)                                             AS model,
    any(owner)                                             AS owner,
    any(task)                                              AS task,
    any(profile)                                           AS profile,
    min(received)                                          AS first,
    max(received)                                          AS last,
    uniqExact(audit_id, received)                          AS requests,
    uniqExactIf((audit_id, received), verb NOT IN ('get', 'list', 'watch')) AS changes,
    uniqExactIf(approval, verdict = 'held')                AS held,
    uniqExactIf(approval, verdict = 'approved')            AS approved,
    uniqExactIf((audit_id, received), verdict = 'denied')  AS denied
FROM tipstaff.audit_events FINAL
WHERE run_key != ''
GROUP BY cluster, issuer, run, run_key
ORDER BY last DESC, cluster, issuer, run
LIMIT {limit:UInt32}

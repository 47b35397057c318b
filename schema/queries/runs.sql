-- The runs of agents, the one that acted last first; those of one agent (its user or
-- the token's subject) or owner, where one is given, that acted since then.
-- A request counts once, whatever stages of it were reported, and by whom: the
-- audit id of a proxied one is the proxy's, any other's may be the client's.
WITH (audit_id, if(proxied, toDateTime64(0, 6, 'UTC'), received)) AS request
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
    uniqExact(request)                                     AS requests,
    uniqExactIf(request, verb NOT IN ('get', 'list', 'watch')) AS changes,
    uniqExactIf(approval, verdict = 'held')                AS held,
    uniqExactIf(approval, verdict = 'approved')            AS approved,
    uniqExactIf(request, verdict = 'denied')               AS denied
FROM tipstaff.audit_events AS e FINAL
WHERE run_key != ''
    AND ({agent:String} = '' OR e.user = {agent:String} OR endsWith(e.user, concat(':', {agent:String})))
    AND ({owner:String} = '' OR e.owner = {owner:String})
GROUP BY cluster, issuer, run, run_key
HAVING last >= fromUnixTimestamp64Micro({since:Int64}, 'UTC')
ORDER BY last DESC, cluster, issuer, run
LIMIT {limit:UInt32}

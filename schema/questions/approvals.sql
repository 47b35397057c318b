-- Who let what through, and how long did it take them?
-- seconds is from the first time the request was held, in the time asked for, to the last decision that it needed. A request that was never sent again after it was decided still shows as held.
SELECT r.cluster AS cluster, r.approval AS approval, any(r.run) AS run, any(r.owner) AS owner, any(r.what) AS what, any(r.rule) AS rule,
    any(r.asked) AS asked, if(countIf(has(r.who, d.user)) = 0, NULL, maxIf(d.received, has(r.who, d.user))) AS decided,
    dateDiff('second', asked, decided) AS seconds, any(r.who) AS deciders, any(r.ended) AS ended, any(r.decision_reason) AS reason
FROM (
    SELECT cluster, approval, any(run) AS run, any(owner) AS owner, argMax(concat(verb, ' ', resource, if(name = '', '', '/'), name), received) AS what,
        any(rule) AS rule, min(received) AS asked, argMax(verdict, received) AS ended, argMax(decision_reason, received) AS decision_reason,
        arraySort(arrayDistinct(arrayFlatten(groupArray(approvers)))) AS who
    FROM $requests(approval != '' AND run_key != '' AND verdict IN ('held', 'approved', 'denied'))$
    GROUP BY cluster, approval
) AS r
LEFT JOIN (
    SELECT cluster, name, user, received
    FROM tipstaff.audit_events FINAL
    WHERE api_group = 'tipstaff.dev' AND resource = 'approvals' AND subresource = 'status' AND code BETWEEN 200 AND 299 AND verb IN ('update', 'patch') AND NOT dry_run
        AND stage = 'ResponseComplete' AND source = '' AND received >= {since:DateTime64(6, 'UTC')} - INTERVAL 30 DAY AND received < {until:DateTime64(6, 'UTC')}
) AS d ON d.cluster = r.cluster AND d.name = r.approval
GROUP BY r.cluster, r.approval
ORDER BY asked, approval
LIMIT {limit:UInt32}

-- Who let what through, and how long did it take them?
-- seconds is from the first time the request was held to the decision.
SELECT r.cluster AS cluster, r.approval AS approval, any(r.run) AS run, any(r.owner) AS owner,
    argMax(concat(r.verb, ' ', r.resource, if(r.name = '', '', '/'), r.name), r.received) AS what, any(r.rule) AS rule,
    min(r.received) AS asked, min(d.received) AS decided, dateDiff('second', asked, decided) AS seconds,
    groupUniqArray(d.user) AS deciders, argMax(r.verdict, r.received) AS ended
FROM $requests(approval != '' AND run_key != '' AND verdict IN ('held', 'approved', 'denied'))$ AS r
INNER JOIN $requests(api_group = 'tipstaff.dev' AND resource = 'approvals' AND subresource = 'status' AND code < 300
    AND startsWith(uri, '/apis/') AND verb IN ('update', 'patch') AND NOT has(groups, 'system:serviceaccounts'))$ AS d
    ON d.cluster = r.cluster AND d.name = r.approval
WHERE has(r.approvers, d.user) OR r.verdict = 'held'
GROUP BY r.cluster, r.approval
ORDER BY asked, approval
LIMIT {limit:UInt32}

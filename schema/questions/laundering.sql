-- Which pods did a run make, and what did their service accounts do after that?
-- @run text: one run; every one where it isn't given
SELECT p.cluster AS cluster, p.run AS run, any(p.user) AS agent, p.namespace AS namespace, p.account AS account, min(p.received) AS pod_made,
    groupUniqArray(5)(p.pod) AS pods, s.verb AS verb, s.resource AS resource, uniqExact(s.cluster, s.received, s.audit_id) AS requests, countIf(s.code < 400) > 0 AS answered, max(s.received) AS last
FROM (
    SELECT *, if(account_named = '', 'default', account_named) AS account,
        JSONExtractString(response_object, 'metadata', 'name') AS pod,
        multiIf(resource = 'pods', JSONExtractString(object, 'spec', 'serviceAccountName'),
            resource = 'cronjobs', JSONExtractString(object, 'spec', 'jobTemplate', 'spec', 'template', 'spec', 'serviceAccountName'),
            JSONExtractString(object, 'spec', 'template', 'spec', 'serviceAccountName')) AS account_named,
        if(response_object = '', request_object, response_object) AS object
    FROM $requests(run_key != '' AND ({run:String} = '' OR run = {run:String}) AND verb IN ('create', 'update', 'patch') AND subresource = '' AND code < 300 AND NOT dry_run
        AND resource IN ('pods', 'deployments', 'daemonsets', 'statefulsets', 'replicasets', 'jobs', 'cronjobs', 'replicationcontrollers'))$
) AS p
INNER JOIN $requests(startsWith(user, 'system:serviceaccount:'))$ AS s
    ON s.cluster = p.cluster AND s.user = concat('system:serviceaccount:', p.namespace, ':', p.account)
WHERE s.received > p.received
GROUP BY p.cluster, p.run, p.namespace, p.account, s.verb, s.resource
ORDER BY run, namespace, account, requests DESC, verb, resource
LIMIT {limit:UInt32}

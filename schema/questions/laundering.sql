-- Which pods did a run make, and what did their service accounts do after that?
-- Of what makes pods, where its whole body was recorded.
-- @run text: one run; every one where it isn't given
WITH made AS (
    SELECT cluster, run, user, namespace, received, name,
        if(response_object = '', request_object, response_object) AS object,
        multiIf(resource = 'pods', JSONExtractRaw(object, 'spec'),
            resource = 'cronjobs', JSONExtractRaw(object, 'spec', 'jobTemplate', 'spec', 'template', 'spec'),
            JSONExtractRaw(object, 'spec', 'template', 'spec')) AS pod_spec,
        if(JSONExtractString(pod_spec, 'serviceAccountName') = '', 'default', JSONExtractString(pod_spec, 'serviceAccountName')) AS account,
        if(JSONExtractString(object, 'metadata', 'name') = '', name, JSONExtractString(object, 'metadata', 'name')) AS made_name
    FROM $requests(run_key != '' AND ({run:String} = '' OR run = {run:String}) AND verb IN ('create', 'update', 'patch') AND subresource = '' AND code BETWEEN 200 AND 299 AND NOT dry_run
        AND resource IN ('pods', 'deployments', 'daemonsets', 'statefulsets', 'replicasets', 'jobs', 'cronjobs', 'replicationcontrollers'))$
    WHERE JSONHas(pod_spec, 'containers') AND (verb != 'patch' OR response_object != '')
)
SELECT p.cluster AS cluster, p.run AS run, any(p.user) AS agent, p.namespace AS namespace, p.account AS account, min(p.received) AS pod_made,
    groupUniqArray(5)(p.made_name) AS made, s.verb AS verb, s.resource AS resource, uniqExact(s.received, s.audit_id) AS requests, countIf(s.code BETWEEN 100 AND 399) > 0 AS answered, max(s.received) AS last
FROM made AS p
INNER JOIN $requests((cluster, user) IN (SELECT cluster, concat('system:serviceaccount:', namespace, ':', account) FROM made))$ AS s
    ON s.cluster = p.cluster AND s.user = concat('system:serviceaccount:', p.namespace, ':', p.account)
WHERE s.received > p.received
GROUP BY p.cluster, p.run, p.namespace, p.account, s.verb, s.resource
ORDER BY run, namespace, account, requests DESC, verb, resource
LIMIT {limit:UInt32}

-- What would Falco's and Sigma's rules for Kubernetes' audit log flag?
-- Of everybody, agent or not. alerts names what was found in one request.
-- @agents number 0: 1 for agents alone
WITH
    if(request_object = '' OR verb = 'patch' AND response_object != '', response_object, request_object) AS object,
    multiIf(resource = 'pods', JSONExtractRaw(object, 'spec'), resource = 'cronjobs', JSONExtractRaw(object, 'spec', 'jobTemplate', 'spec', 'template', 'spec'), JSONExtractRaw(object, 'spec', 'template', 'spec')) AS pod_spec,
    code BETWEEN 100 AND 299 AND NOT dry_run AS done,
    verb IN ('create', 'update', 'patch') AND subresource = '' AND done AND object != '' AS written,
    written AND (resource = 'pods' OR resource IN ('deployments', 'daemonsets', 'statefulsets', 'replicasets', 'jobs', 'cronjobs', 'replicationcontrollers')) AS runs_pods,
    written AND resource IN ('roles', 'clusterroles') AND api_group = 'rbac.authorization.k8s.io' AS writes_role,
    JSONExtractArrayRaw(object, 'rules') AS role_rules,
    verb IN ('update', 'patch', 'delete') AND done AS changed
SELECT received, cluster, user, run, owner, verb, resource, subresource, namespace, name, code, verdict, approvers,
    arrayFilter(a -> a != '', [
        if(user = 'system:anonymous' AND done AND NOT match(uri, '^/(healthz|livez|readyz|version)'), 'anonymous request allowed', ''),
        if(runs_pods AND arrayExists(c -> JSONExtractBool(c, 'securityContext', 'privileged'), arrayConcat(JSONExtractArrayRaw(pod_spec, 'containers'), JSONExtractArrayRaw(pod_spec, 'initContainers'))), 'privileged pod', ''),
        if(runs_pods AND (JSONExtractBool(pod_spec, 'hostNetwork') OR JSONExtractBool(pod_spec, 'hostPID') OR JSONExtractBool(pod_spec, 'hostIPC')), 'pod in a namespace of the host', ''),
        if(runs_pods AND arrayExists(v -> JSONHas(v, 'hostPath'), JSONExtractArrayRaw(pod_spec, 'volumes')), 'pod with a path of the host', ''),
        if(runs_pods AND namespace IN ('kube-system', 'kube-public', 'kube-node-lease') AND NOT startsWith(user, 'system:'), 'pod in a system namespace', ''),
        if(verb = 'create' AND resource = 'serviceaccounts' AND subresource = '' AND done AND namespace IN ('kube-system', 'kube-public') AND NOT startsWith(user, 'system:'), 'service account in a system namespace', ''),
        if(resource = 'serviceaccounts' AND subresource = 'token' AND verb = 'create' AND done AND NOT startsWith(user, 'system:'), 'service account token requested', ''),
        if(resource IN ('clusterroles', 'roles') AND changed AND startsWith(name, 'system:') AND NOT startsWith(user, 'system:'), 'system role changed or deleted', ''),
        if(written AND resource IN ('clusterrolebindings', 'rolebindings') AND JSONExtractString(object, 'roleRef', 'name') = 'cluster-admin', 'bound to cluster-admin', ''),
        if(writes_role AND arrayExists(r -> has(JSONExtract(r, 'resources', 'Array(String)'), '*') OR has(JSONExtract(r, 'verbs', 'Array(String)'), '*'), role_rules), 'role with a wildcard', ''),
        if(writes_role AND arrayExists(r -> hasAny(JSONExtract(r, 'resources', 'Array(String)'), ['pods/exec', 'pods/attach']), role_rules), 'role with exec', ''),
        if(writes_role AND arrayExists(r -> hasAny(JSONExtract(r, 'verbs', 'Array(String)'), ['impersonate', 'escalate', 'bind']), role_rules), 'role that can raise rights', ''),
        if(subresource IN ('exec', 'attach') AND resource = 'pods' AND code BETWEEN 100 AND 399, 'exec or attach', ''),
        if(subresource = 'ephemeralcontainers' AND verb IN ('patch', 'update') AND done, 'ephemeral container', ''),
        if(subresource = 'portforward' AND resource = 'pods' AND code BETWEEN 100 AND 399, 'port forwarded', ''),
        if(written AND resource = 'services' AND JSONExtractString(object, 'spec', 'type') = 'NodePort', 'service with a port on every node', ''),
        if(verb = 'create' AND written AND resource = 'ingresses' AND NOT JSONHas(object, 'spec', 'tls'), 'ingress without TLS', ''),
        if(resource = 'secrets' AND verb = 'list' AND namespace = '' AND done AND NOT startsWith(user, 'system:'), 'Secrets of every namespace listed', ''),
        if(resource IN ('validatingwebhookconfigurations', 'mutatingwebhookconfigurations', 'validatingadmissionpolicies', 'validatingadmissionpolicybindings', 'mutatingadmissionpolicies', 'mutatingadmissionpolicybindings') AND verb IN ('create', 'update', 'patch', 'delete', 'deletecollection') AND done AND NOT startsWith(user, 'system:'), 'admission changed', ''),
        if(resource = 'events' AND verb IN ('delete', 'deletecollection') AND done AND NOT startsWith(user, 'system:'), 'events deleted', ''),
        if(resource IN ('cronjobs') AND written, 'cron job written', ''),
        if(resource = 'certificatesigningrequests' AND subresource = 'approval' AND done AND NOT startsWith(user, 'system:'), 'certificate approved', ''),
        if(code = 403 AND resource IN ('selfsubjectaccessreviews', 'selfsubjectrulesreviews') OR resource = 'selfsubjectrulesreviews' AND run_key != '', 'rights probed', ''),
        if(impersonator != '' AND NOT proxied AND NOT startsWith(impersonator, 'system:'), 'somebody impersonated', '')
    ]) AS alerts
FROM $requests({agents:UInt8} = 0 OR run_key != '')$
WHERE notEmpty(alerts)
ORDER BY received, cluster, audit_id
LIMIT {limit:UInt32}

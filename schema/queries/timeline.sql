-- Every request of one run, in order, each at the last stage that was reported,
-- and as the API server tells it where the proxy tells of it, too.
-- An empty issuer means every issuer that names a run so.
SELECT * FROM (
SELECT
    cluster, audit_id, stage, level, received, stage_time, verb,
    user, groups, impersonator, proxied, issuer, run, run_key, model, owner, task, profile, credential_id,
    source_ips, user_agent,
    api_group, api_version, resource, subresource, namespace, name, uri, dry_run,
    code, reason, message, verdict, rule, approval, approvers, decision_reason,
    truncated, request_object, response_object, annotations, source
FROM tipstaff.audit_events FINAL
WHERE run = {run:String} AND run_key != '' AND ({issuer:String} = '' OR issuer = {issuer:String})
ORDER BY
    source = 'proxy',
    indexOf(['RequestReceived', 'ResponseStarted', 'ResponseComplete', 'Panic'], stage) DESC,
    stage_time DESC
LIMIT 1 BY cluster, issuer, if(proxied, toDateTime64(0, 6, 'UTC'), received), audit_id
)
ORDER BY received, cluster, audit_id

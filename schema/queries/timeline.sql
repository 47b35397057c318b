-- Every request of one run, in order, each at the last stage that was reported.
-- An empty issuer means every issuer that names a run so.
SELECT
    cluster, audit_id, stage, level, received, stage_time, verb,
    user, groups, impersonator, proxied, issuer, run, run_key, model, owner, task, profile, credential_id,
    source_ips, user_agent,
    api_group, api_version, resource, subresource, namespace, name, uri, dry_run,
    code, reason, message, verdict, rule, approval, approvers, decision_reason,
    truncated, request_object, response_object, annotations
FROM tipstaff.audit_events FINAL
WHERE run = {run:String} AND run_key != '' AND ({issuer:String} = '' OR issuer = {issuer:String})
ORDER BY
    received, cluster, audit_id,
    indexOf(['RequestReceived', 'ResponseStarted', 'ResponseComplete', 'Panic'], stage) DESC,
    stage_time DESC
LIMIT 1 BY cluster, issuer, received, audit_id

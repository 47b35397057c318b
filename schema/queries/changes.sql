-- The requests that change something, of anyone, and the reads of single objects,
-- which tell what an object was before it was changed; in the order they came,
-- each at the last stage that was reported, and as the API server tells it where the
-- proxy tells of it, too. Of a held request only the last try.
-- Empty cluster means every one; with a run, other runs' requests
-- are still here, for what they tell of objects.
SELECT
    cluster, audit_id, stage, received, verb,
    user, groups, impersonator, proxied, issuer, run, model, owner, task, profile, credential_id,
    api_group, api_version, resource, subresource, namespace, name, dry_run,
    code, verdict, rule, approval, truncated, request_object, response_object
FROM tipstaff.audit_events FINAL
WHERE received >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND received < fromUnixTimestamp64Micro({until:Int64}, 'UTC')
    AND resource != ''
    AND ({cluster:String} = '' OR cluster = {cluster:String})
    AND (verb IN ('create', 'update', 'patch', 'delete', 'deletecollection')
        OR api_group = '' AND subresource IN ('exec', 'attach', 'portforward', 'proxy')
        OR verb = 'get' AND code BETWEEN 200 AND 299 AND response_object != '' AND subresource IN ('', 'status', 'scale'))
    AND (source = '' OR (cluster, audit_id) NOT IN (
        SELECT cluster, audit_id
        FROM tipstaff.audit_events
        WHERE source = '' AND proxied
            AND received >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') - INTERVAL 1 HOUR
            AND received < fromUnixTimestamp64Micro({until:Int64}, 'UTC') + INTERVAL 1 HOUR))
    AND (verdict != 'held' OR approval = '' OR (cluster, approval, received) IN (
        SELECT cluster, approval, max(received)
        FROM tipstaff.audit_events
        WHERE approval != '' AND received >= fromUnixTimestamp64Micro({first:Int64}, 'UTC') AND received < fromUnixTimestamp64Micro({last:Int64}, 'UTC')
        GROUP BY cluster, approval))
ORDER BY
    received, cluster, audit_id,
    indexOf(['RequestReceived', 'ResponseStarted', 'ResponseComplete', 'Panic'], stage) DESC,
    stage_time DESC
LIMIT 1 BY cluster, issuer, received, audit_id
SETTINGS max_bytes_before_external_sort = 500000000

-- What did this run do, reads included?
-- @run text required: the run's id
-- @issuer text: its issuer, where two have a run of that id
SELECT received, verb, resource, subresource, namespace, name, code, verdict, rule, approval, approvers, dry_run, proxied
FROM $requests(run = {run:String} AND run_key != '' AND ({issuer:String} = '' OR issuer = {issuer:String}))$
ORDER BY received, cluster, audit_id
LIMIT {limit:UInt32}

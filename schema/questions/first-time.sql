-- What does an agent do that it never did before?
-- Verbs on resources that it used since, and not between baseline and then: baseline must be longer ago.
-- @agent text: one agent's user name; every one where it isn't given
-- @baseline time 30d: how far back it is compared
SELECT cluster, user AS agent, verb, api_group, resource, subresource, min(received) AS first, $tries$ AS requests, groupUniqArray(5)(run) AS runs, countIf(code BETWEEN 100 AND 399) AS answered
FROM $requests(run_key != '' AND ({agent:String} = '' OR user = {agent:String}))$
WHERE (cluster, user, verb, api_group, resource, subresource) NOT IN (
    SELECT cluster, user, verb, api_group, resource, subresource
    FROM tipstaff.audit_events
    WHERE received >= {baseline:DateTime64(6, 'UTC')} AND received < {since:DateTime64(6, 'UTC')}
        AND run_key != '' AND ({agent:String} = '' OR user = {agent:String}))
GROUP BY cluster, user, verb, api_group, resource, subresource
ORDER BY first, agent, verb, resource
LIMIT {limit:UInt32}

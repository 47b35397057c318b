-- What did this owner's agents do?
-- @owner text required: the owner, as tokens name it
SELECT cluster, issuer, run, any(user) AS agent, any(model) AS model, any(task) AS task, min(received) AS first, max(received) AS last,
    $tries$ AS requests, uniqExactIf($try$, verb NOT IN ('get', 'list', 'watch')) AS changes,
    uniqExactIf(approval, verdict = 'held') AS held, uniqExactIf(approval, verdict = 'approved') AS approved, uniqExactIf($try$, verdict = 'denied') AS denied
FROM $requests(owner = {owner:String} AND run_key != '')$
GROUP BY cluster, issuer, run
ORDER BY last DESC, run
LIMIT {limit:UInt32}

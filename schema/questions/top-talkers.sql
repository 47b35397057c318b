-- Which agents ask most?
SELECT cluster, user AS agent, uniqExact(run_key) AS runs, $tries$ AS requests, uniqExactIf($try$, verb IN ('list', 'watch')) AS lists, uniqExactIf($try$, verb NOT IN ('get', 'list', 'watch')) AS changes,
    uniqExactIf($try$, code >= 400) AS refused, uniqExactIf($try$, code = 429) AS throttled_or_held, max(received) AS last
FROM $requests(run_key != '')$
GROUP BY cluster, user
ORDER BY requests DESC, agent
LIMIT {limit:UInt32}

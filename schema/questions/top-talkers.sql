-- Which agents ask most?
SELECT cluster, user AS agent, uniqExact(run_key) AS runs, count() AS requests, countIf(verb IN ('list', 'watch')) AS lists, countIf(verb NOT IN ('get', 'list', 'watch')) AS changes,
    countIf(code >= 400) AS refused, countIf(code = 429) AS throttled_or_held, max(received) AS last
FROM $requests(run_key != '')$
GROUP BY cluster, user
ORDER BY requests DESC, agent
LIMIT {limit:UInt32}

-- What was denied or held, by which rule?
SELECT rule, verdict, $tries$ AS requests, uniqExactIf(approval, approval != '') AS approvals, uniqExact(run_key) AS runs,
    arraySort(groupUniqArray(5)(concat(verb, ' ', resource, if(name = '', '', '/'), name))) AS examples, max(received) AS last
FROM $requests(verdict IN ('held', 'denied'))$
GROUP BY rule, verdict
ORDER BY requests DESC, rule, verdict
LIMIT {limit:UInt32}

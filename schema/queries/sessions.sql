-- The recorded sessions of one run, or one session, the first first, with how each ended.
SELECT
    s.cluster AS cluster, s.session AS session, s.started AS started,
    s.user AS user, s.issuer AS issuer, s.run AS run, s.run_key AS run_key, s.model AS model, s.owner AS owner,
    s.task AS task, s.profile AS profile, s.credential_id AS credential_id, s.source_ip AS source_ip, s.user_agent AS user_agent,
    s.verb AS verb, s.namespace AS namespace, s.pod AS pod, s.container AS container, s.command AS command, s.tty AS tty,
    f.input AS input, f.output AS output, f.last AS last, f.status AS status, f.ended AS ended, f.reason AS reason
FROM (
    SELECT * FROM tipstaff.sessions FINAL
    WHERE ({run:String} = '' OR run = {run:String}) AND ({session:String} = '' OR session = {session:String})
        AND ({issuer:String} = '' OR issuer = {issuer:String})
) AS s
LEFT JOIN (
    SELECT
        cluster, session,
        sumIf(length(data), stream = 'stdin')                  AS input,
        sumIf(length(data), stream IN ('stdout', 'stderr'))    AS output,
        max(after)                                             AS last,
        anyIf(data, stream = 'status')                         AS status,
        countIf(stream = 'end') > 0                            AS ended,
        anyIf(data, stream = 'end')                            AS reason
    FROM tipstaff.session_frames FINAL
    WHERE (cluster, session) IN (
        SELECT cluster, session FROM tipstaff.sessions
        WHERE ({run:String} = '' OR run = {run:String}) AND ({session:String} = '' OR session = {session:String})
            AND ({issuer:String} = '' OR issuer = {issuer:String}))
    GROUP BY cluster, session
) AS f ON s.cluster = f.cluster AND s.session = f.session
ORDER BY started, cluster, session
LIMIT 10000

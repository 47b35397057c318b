-- What passed in one session, in order.
SELECT seq, after, stream, data
FROM tipstaff.session_frames FINAL
WHERE cluster = {cluster:String} AND session = {session:String}
ORDER BY seq

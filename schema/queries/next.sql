-- The first event at or after a time.
SELECT count() AS events, toUnixTimestamp64Micro(min(received)) AS first
FROM tipstaff.audit_events
WHERE received >= fromUnixTimestamp64Micro({since:Int64}, 'UTC') AND received < fromUnixTimestamp64Micro({until:Int64}, 'UTC')

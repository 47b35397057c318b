-- Who touched this object, and what did they change?
-- @resource text required: its resource, such as deployments
-- @name text required: its name
-- @namespace text: its namespace, where it has one
-- @group text: its API group; every one where it isn't given
SELECT received, user, run, owner, model, verb, subresource, code, verdict, approval, approvers, substring(request_object, 1, 400) AS change
FROM $requests(resource = {resource:String} AND name = {name:String} AND namespace = {namespace:String}
    AND ({group:String} = '' OR api_group = {group:String}) AND verb NOT IN ('get', 'list', 'watch'))$
ORDER BY received, cluster, audit_id
LIMIT {limit:UInt32}

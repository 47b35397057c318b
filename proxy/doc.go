// Package proxy lets agents read the cluster without its secrets. It verifies
// the agent's token itself, impersonates the agent at the API server with groups
// that no token yields (tipstaff:proxied, and under it one for the run and one
// for the agent), and masks every JSON answer on its way back.
//
// It promises that no answer passes which mask could not read, that nothing a
// client sends becomes part of the identity it is given, and that a request
// whose identity can't be set is refused, never sent with the proxy's own
// rights. A mark that a client sends back is refused with the field that holds
// it.
//
// It refuses, with a Kubernetes Status that says so: other answers than JSON
// (the Accept header is narrowed; OpenAPI, version and health paths are passed
// as they are, they hold no objects), upgraded connections, and pods' logs,
// exec, attach, port-forward and the proxy subresources, which are not offered
// through it yet. Paths that two readers could read differently get 400.
//
// When the API server can't be reached it answers 503, when it doesn't answer in
// time 504; when an answer can't be masked midway, the connection is cut.
//
// A revocation ends what its runs have under way, not only what they ask next
// (I9): a watch gets one last event, of type ERROR with the Status that the next
// request gets too, and ends; any other answer that has begun breaks off; one
// that hasn't begun is that Status. The same happens where nobody can tell any
// more who is revoked. A stream outlives the token that opened it, as at the API
// server itself: a token's end says nothing against its run, a revocation does.
//
// Not closed in this version: the lengths of lists and tables, warning headers,
// field selectors and admission refusals with reason Forbidden are passed as
// they are.
package proxy

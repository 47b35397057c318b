// Package proxy lets agents read the cluster without its secrets. It verifies
// the agent's token itself, impersonates the agent at the API server with groups
// that no token yields (tipstaff:proxied, and under it one for the run and one
// for the agent), and masks every JSON answer on its way back.
//
// It promises that no answer passes which mask could not read, that nothing a
// client sends becomes part of the identity it is given, and that a request
// whose identity can't be set is refused, never sent with the proxy's own
// rights. A mark that comes back where it was read becomes the real value again;
// one anywhere else is refused with the field that holds it (I8). What compares
// or copies a masked value instead is refused too.
//
// Logs are masked as they stream, and the output of exec and attach over
// WebSocket (v5 and v4.channel.k8s.io) and SPDY/3.1; port-forward passes as it
// is. What passes in exec and attach is recorded before it does, and a session
// that can't be recorded is refused or cut (ADR 10). One that ends before its
// command told how it ended is never a success: the proxy says so in its place.
// Of a session that is cut only that goes out, not what the masker still held.
//
// It refuses, with a Kubernetes Status that says so: other answers than JSON
// (the Accept header is narrowed, and what only takes protobuf gets that where it
// can be made; OpenAPI, version and health paths are passed as they are, they
// hold no objects), other upgraded connections, and the proxy
// subresources. Paths that two readers could read differently get 400.
//
// Where the API server can't be told to send audit events, it writes them itself.
// What one holds costs no other its place, and each that is lost is counted.
// Every request that it passes has an audit id of its own drawing.
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
// A change that the admission webhook holds (429, with the approval's name among
// its causes) waits here until its approval is decided or has ended, and is then
// sent again, as it was and as the same agent. The client gets the last answer.
// It is never sent again for a client that is gone, a run that is revoked or a
// token that doesn't verify any more, and not where its approval ended: that
// would be a new question to people. What waits is bounded by time, number and
// bytes; past a bound the client gets the webhook's 429.
//
// Not closed in this version: the lengths of lists and tables.
package proxy

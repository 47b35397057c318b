// Package mask decides what in a Kubernetes object is secret, and puts a mark
// in its place. It is pure: the proxy, ingest and the approvals' diffs use it.
//
// It promises that a value which its rules name never comes out: not from a
// single object, a list, a table, a watch event, an error that quotes an object,
// or an annotation that holds one. It never relies on the order of members: what
// may still turn out to be a Secret is masked as one. What can't be parsed, holds
// a name twice, nests too deep or is larger than MaxObjectBytes is an error: the
// caller passes nothing more on.
//
// Named by the rules in this version: Secret data and stringData (keys stay),
// the kubectl last-applied annotation where it holds such an object or can't be
// read, TokenRequest's status.token, and the text of errors about Secrets that
// may quote values (where the error's reason is one that never quotes any, it
// stays). Values in other kinds, logs and events are not looked for.
//
// A mark is "tipstaff-masked-" and 20 hex digits of an HMAC (SHA-256) of the
// value, under a key derived per run from the cluster's key. Equal values give
// equal marks within a run; without the key a mark says nothing of its value.
// In data, where values are base64, stands the mark's base64.
package mask

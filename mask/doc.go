// Package mask decides what in a Kubernetes object is secret, and puts a mark
// in its place. It is pure: the proxy, ingest and the approvals' diffs use it.
//
// It promises that a value which its rules name never comes out: not from a
// single object, a list, a table, a watch event, an error that quotes an object,
// or an annotation that holds one. It never relies on the order of members, and
// what can't be parsed, holds a name twice, or nests too deep is an error: the
// caller passes nothing on.
//
// Named by the rules in this version: Secret data and stringData (keys stay),
// the kubectl last-applied annotation where it holds such an object or can't be
// read, TokenRequest's status.token, and the text of errors about Secrets that
// may quote values. Values in other kinds, logs and events are not looked for.
//
// A mark is "tipstaff-masked-" and 20 hex digits of an HMAC (SHA-256) of the
// value, under a key derived per run from the cluster's key. Equal values give
// equal marks within a run; without the key a mark says nothing of its value.
// In data, where values are base64, stands the mark's base64.
package mask

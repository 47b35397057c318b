// Package mask decides what in a Kubernetes object or a text is secret, and puts
// a mark in its place. It is pure: the proxy, ingest and the approvals' diffs
// use it. docs/masking.md says what its rules name.
//
// It promises that a value which its rules name never comes out: not from a
// single object, a list, a table, a watch event, an error that quotes an object,
// an annotation that holds one, or a text that comes in pieces. It never relies
// on the order of members: what may still turn out to be a Secret is masked as
// one. What can't be read, nests too deep or is larger than MaxObjectBytes is an
// error: the caller passes nothing more on. What needs no mask passes byte for
// byte.
//
// A mark is "tipstaff-masked-" and 20 hex digits of an HMAC (SHA-256) of the
// value, under keys derived per run from the cluster's key. Equal values that
// can't be guessed have equal marks within a run, others within an object; see
// Scoped. In data, where
// values are base64, stands the mark's base64.
package mask

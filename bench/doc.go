// Package bench measures the hot paths, each beside the bare limit that it
// can't beat: what is read is the ratio, from one interleaved run on one
// machine. `make bench` runs it and writes the tables to bench/results/.
//
// Masking, and admission once more, are Go benchmarks, in process. Token reviews
// and admission are scenarios of their own: over TLS, against servers in
// processes of their own, beside a real API server. Token reviews have the API
// server itself as a peer; admission has Gatekeeper and Kyverno, built from their
// own modules (peers/), and ValidatingAdmissionPolicies. Both end in a table of
// the goals. Every answer must be a yes, so nothing is fast by refusing; tokens
// that count as never seen go to a server that has just started, and every side
// is first seen to stop what it should.
//
// Reads through the proxy are a scenario too: small and large answers beside the
// backend, a bare httputil.ReverseProxy and kube-rbac-proxy, then a real API
// server's lists (JSON, Table, kubectl), watches of one pod by 500 and by 5,000
// watchers, and the peak memory of large lists up to a gigabyte. What is masked is
// first compared with the original, value by value.
//
// The other parts' peers and the growth curves are not here yet.
package bench

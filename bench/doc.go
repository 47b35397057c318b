// Package bench measures the hot paths, each beside the bare limit that it
// can't beat: what is read is the ratio, from one interleaved run on one
// machine. `make bench` runs it and writes the tables to bench/results/.
//
// Masking and admission are Go benchmarks, in process. Token reviews are a
// scenario of their own: over TLS, against servers in processes of their own,
// beside a real API server that verifies the same tokens itself; it ends in a
// table of the goals. Every answer must be a yes, so nothing is fast by refusing,
// and tokens that count as never seen go to a server that has just started.
//
// The peers and growth curves of the other parts are not here yet.
package bench

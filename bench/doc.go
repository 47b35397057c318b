// Package bench measures the hot paths, each beside the bare limit that it
// can't beat: what is read is the ratio, from one interleaved run on one
// machine. `make bench` runs it and writes the table to bench/results/.
//
// Thin: masking and admission in process. The scenarios over TLS, the peers and
// the growth curves are not here yet.
package bench

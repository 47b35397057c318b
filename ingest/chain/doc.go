// Package chain proves what was stored. Each insert of a cluster's events becomes a
// batch: the Merkle tree of its rows (RFC 6962). Batches are the leaves of one
// append-only log for each cluster, and each leaf comes with the log's head, signed
// with Ed25519 (a checkpoint as C2SP's tlog-checkpoint and signed-note have it).
//
// Who can write to ClickHouse, but hasn't the key, can't remove, alter or insert a
// row, or a leaf, without Verify seeing it: what the last checkpoint covers is
// computed again from the rows. Who can take back the log's end altogether is seen
// by a checkpoint that is kept elsewhere.
package chain

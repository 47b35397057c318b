package schema

import (
	"context"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// ChainBatch is one row of tipstaff.chain_batches: one leaf of a cluster's log.
type ChainBatch struct {
	Cluster string `json:"cluster" ch:"cluster"`
	Leaf    uint64 `json:"leaf" ch:"leaf"`
	Batch   uint64 `json:"batch" ch:"batch"`
	Rows    uint32 `json:"rows" ch:"rows"`
	// First and Last are the times of its rows, Stored is when it was written.
	First  time.Time `json:"first" ch:"first"`
	Last   time.Time `json:"last" ch:"last"`
	Stored time.Time `json:"stored" ch:"stored"`
	// Root is the Merkle root of its rows, base64.
	Root string `json:"root" ch:"root"`
	// Listed is the Merkle root of the batch's ChainRows, base64.
	Listed string `json:"listed" ch:"listed"`
	// Checkpoint is the log's signed head with this leaf as its last.
	Checkpoint string `json:"checkpoint" ch:"checkpoint"`
}

// RowKey is what tells a row of tipstaff.audit_events from every other row of its
// cluster: where two rows have the same, the later replaces the earlier.
type RowKey struct {
	RunKey, AuditID, Stage, Source string
	// Received and StageTime are microseconds since 1970.
	Received, StageTime int64
}

// Key is the event's.
func (e *Event) Key() RowKey {
	return RowKey{e.RunKey, e.AuditID, e.Stage, e.Source, e.Received.UnixMicro(), e.StageTime.UnixMicro()}
}

// ChainRow is one row of tipstaff.chain_rows: which row is at which place of a batch.
type ChainRow struct {
	Cluster   string    `ch:"cluster"`
	RunKey    string    `ch:"run_key"`
	Received  time.Time `ch:"received"`
	AuditID   string    `ch:"audit_id"`
	Stage     string    `ch:"stage"`
	StageTime time.Time `ch:"stage_time"`
	Source    string    `ch:"source"`
	Batch     uint64    `ch:"batch"`
	Place     uint32    `ch:"place"`
	// Hash is the beginning of the row's hash.
	Hash uint64 `ch:"hash"`
}

// Key is the row's that it tells of.
func (r *ChainRow) Key() RowKey {
	return RowKey{r.RunKey, r.AuditID, r.Stage, r.Source, r.Received.UnixMicro(), r.StageTime.UnixMicro()}
}

// AppendCanonical appends r as bytes that are the same for the same row, whoever reads
// it, and other bytes for any other. Its batch and place are not in them.
func (r *ChainRow) AppendCanonical(b []byte) []byte {
	c := canonical{b}
	c.text("cluster", r.Cluster)
	c.text("run_key", r.RunKey)
	c.time("received", r.Received)
	c.text("audit_id", r.AuditID)
	c.text("stage", r.Stage)
	c.time("stage_time", r.StageTime)
	c.text("source", r.Source)
	c.number("hash", int64(r.Hash)) //nolint:gosec // its bits are what counts
	return c.b
}

// InsertChainRows writes rows as one block. Writing them again is harmless.
func InsertChainRows(ctx context.Context, conn driver.Conn, rows []ChainRow) error {
	return insert(ctx, conn, `INSERT INTO tipstaff.chain_rows (cluster, run_key, received, audit_id, stage, stage_time, source, batch, place, hash)`, "rows of the log", rows)
}

// InsertChainBatches writes leaves of the log as one block. Writing them again is harmless.
func InsertChainBatches(ctx context.Context, conn driver.Conn, batches []ChainBatch) error {
	return insert(ctx, conn, `INSERT INTO tipstaff.chain_batches (cluster, leaf, batch, rows, first, last, stored, root, listed, checkpoint)`, "leaves of the log", batches)
}

// Clusters are those that have a row or a log.
func Clusters(ctx context.Context, conn driver.Conn) ([]string, error) {
	return names(ctx, conn, `SELECT DISTINCT cluster AS name FROM tipstaff.audit_events UNION DISTINCT SELECT DISTINCT cluster AS name FROM tipstaff.chain_batches`)
}

// RunKeys are the keys of the runs that are called run; several issuers may call
// one so.
func RunKeys(ctx context.Context, conn driver.Conn, cluster, run string) ([]string, error) {
	return names(ctx, conn, `SELECT DISTINCT run_key AS name FROM tipstaff.audit_events WHERE cluster = ? AND run = ? ORDER BY name`, cluster, run)
}

func names(ctx context.Context, conn driver.Conn, sql string, args ...any) ([]string, error) {
	var rows []struct {
		Name string `ch:"name"`
	}
	if err := conn.Select(ctx, &rows, sql, args...); err != nil {
		return nil, fmt.Errorf("ask for names: %w", err)
	}
	all := make([]string, len(rows))
	for i, r := range rows {
		all[i] = r.Name
	}
	return all, nil
}

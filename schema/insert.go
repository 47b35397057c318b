package schema

import (
	"context"
	"fmt"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

const insertSQL = `INSERT INTO tipstaff.audit_events (
	cluster, audit_id, stage, level, received, stage_time, verb,
	user, groups, impersonator, proxied, issuer, run, run_key, model, owner, task, profile, credential_id,
	source_ips, user_agent,
	api_group, api_version, resource, subresource, namespace, name, uri, dry_run,
	code, reason, message, verdict, rule, approval, approvers, decision_reason,
	truncated, request_object, response_object, annotations, source)`

// Insert writes events as one block. When it returns nil they are stored; an
// error may leave them stored or not, and writing them again is harmless.
func Insert(ctx context.Context, conn driver.Conn, events []Event) error {
	return insert(ctx, conn, insertSQL, "events", events)
}

func insert[T any](ctx context.Context, conn driver.Conn, sql, what string, rows []T) error {
	if len(rows) == 0 {
		return nil
	}
	// Clocks are other people's: a block may touch any number of months.
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"max_partitions_per_insert_block": 0}))
	batch, err := conn.PrepareBatch(ctx, sql)
	if err != nil {
		return fmt.Errorf("insert %d %s: %w", len(rows), what, err)
	}
	defer func() { _ = batch.Close() }() // after Send nothing is left to lose
	for i := range rows {
		if err := batch.AppendStruct(&rows[i]); err != nil {
			return fmt.Errorf("insert %d %s, number %d: %w", len(rows), what, i+1, err)
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("insert %d %s: %w", len(rows), what, err)
	}
	return nil
}

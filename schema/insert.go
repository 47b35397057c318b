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
	truncated, request_object, response_object, annotations)`

// Insert writes events as one block. When it returns nil they are stored; an
// error may leave them stored or not, and writing them again is harmless.
func Insert(ctx context.Context, conn driver.Conn, events []Event) error {
	if len(events) == 0 {
		return nil
	}
	// Clocks are other people's: a block may touch any number of months.
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"max_partitions_per_insert_block": 0}))
	batch, err := conn.PrepareBatch(ctx, insertSQL)
	if err != nil {
		return fmt.Errorf("insert %d events: %w", len(events), err)
	}
	defer func() { _ = batch.Close() }() // after Send nothing is left to lose
	for i := range events {
		if err := batch.AppendStruct(&events[i]); err != nil {
			return fmt.Errorf("insert event %d of %d: %w", i+1, len(events), err)
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("insert %d events: %w", len(events), err)
	}
	return nil
}

package schema

import (
	"context"
	_ "embed" // the questions
	"fmt"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

var (
	//go:embed queries/runs.sql
	runsSQL string
	//go:embed queries/timeline.sql
	timelineSQL string
)

// Runs gives the runs that acted last, at most limit of them.
func Runs(ctx context.Context, conn driver.Conn, limit int) ([]Run, error) {
	if limit < 1 {
		return nil, fmt.Errorf("list runs: the limit must be at least 1")
	}
	var runs []Run
	if err := conn.Select(ctx, &runs, runsSQL, clickhouse.Named("limit", limit)); err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	return runs, nil
}

// Timeline gives the requests of run in the order they came, each once. An
// empty issuer means every issuer that names a run so. No such run gives none.
func Timeline(ctx context.Context, conn driver.Conn, run, issuer string) ([]Event, error) {
	var events []Event
	err := conn.Select(ctx, &events, timelineSQL, clickhouse.Named("run", run), clickhouse.Named("issuer", issuer))
	if err != nil {
		return nil, fmt.Errorf("read the timeline of run %q: %w", run, err)
	}
	return events, nil
}

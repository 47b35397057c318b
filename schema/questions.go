package schema

import (
	"context"
	_ "embed" // the questions
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

var (
	//go:embed queries/runs.sql
	runsSQL string
	//go:embed queries/timeline.sql
	timelineSQL string
)

// Which says which runs are asked for.
type Which struct {
	// Agent is the user, or the token's subject; Owner the person. Empty is anybody.
	Agent, Owner string
	// Since leaves out the runs that have done nothing from then on.
	Since time.Time
	// Limit is how many at the most, at least 1.
	Limit int
}

// Runs gives the runs that acted last.
func Runs(ctx context.Context, conn driver.Conn, w Which) ([]Run, error) {
	if w.Limit < 1 {
		return nil, fmt.Errorf("list runs: the limit must be at least 1")
	}
	var runs []Run
	err := conn.Select(ctx, &runs, runsSQL, clickhouse.Named("agent", w.Agent), clickhouse.Named("owner", w.Owner),
		clickhouse.Named("since", max(w.Since.UnixMicro(), 0)), clickhouse.Named("limit", w.Limit))
	if err != nil {
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

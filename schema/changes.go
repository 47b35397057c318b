package schema

import (
	"context"
	_ "embed" // the question
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

var (
	//go:embed queries/changes.sql
	changesSQL string
	//go:embed queries/next.sql
	nextSQL string
)

// changesStep is how much time one question covers: what it answers is sorted
// with all its bodies.
const changesStep = time.Hour

// Changes hands each request between since and until that changes something,
// and each read of a single object, to each, in the order they came and one at
// a time. An empty cluster means every one. Tries of a held request are one: the
// last. Fields that no rule sees are left empty. An error of each
// ends it and is returned as it is; before each step, progress is told how far it is.
func Changes(ctx context.Context, conn driver.Conn, since, until time.Time, cluster string, progress func(at time.Time), each func(*Event) error) error {
	earliest := time.Unix(0, 0) // of the table's times
	if since.Before(earliest) {
		since = earliest
	}
	from, empty := since, true
	for {
		if empty { // don't ask for every hour of a year without events
			var events uint64
			var first int64
			row := conn.QueryRow(ctx, nextSQL, clickhouse.Named("since", from.UnixMicro()), clickhouse.Named("until", until.UnixMicro()))
			if err := row.Scan(&events, &first); err != nil {
				return fmt.Errorf("look for the next event: %w", err)
			}
			if events == 0 {
				return nil
			}
			from = time.UnixMicro(first)
		}
		progress(from)
		to := from.Add(changesStep)
		if to.After(until) {
			to = until
		}
		empty = true
		err := changes(ctx, conn, [2]time.Time{from, to}, [2]time.Time{since, until}, cluster, func(ev *Event) error {
			empty = false
			return each(ev)
		})
		if err != nil {
			return err
		}
		if from = to; !from.Before(until) {
			return nil
		}
	}
}

// changes asks for one step of the whole time.
func changes(ctx context.Context, conn driver.Conn, step, whole [2]time.Time, cluster string, each func(*Event) error) error {
	rows, err := conn.Query(ctx, changesSQL,
		clickhouse.Named("since", step[0].UnixMicro()), clickhouse.Named("until", step[1].UnixMicro()),
		clickhouse.Named("first", whole[0].UnixMicro()), clickhouse.Named("last", whole[1].UnixMicro()),
		clickhouse.Named("cluster", cluster))
	if err != nil {
		return fmt.Errorf("read the changes: %w", err)
	}
	defer func() { _ = rows.Close() }() // only read from
	for rows.Next() {
		var ev Event
		if err := rows.ScanStruct(&ev); err != nil {
			return fmt.Errorf("read a change: %w", err)
		}
		if err := each(&ev); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the changes: %w", err)
	}
	return nil
}

package chdb_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"
)

func TestClickhouseGoTypesRoundTrip(t *testing.T) {
	t.Parallel()
	base := server(t)
	for name, method := range map[string]clickhouse.CompressionMethod{
		"without compression": clickhouse.CompressionNone, "lz4 blocks": clickhouse.CompressionLZ4, "zstd blocks": clickhouse.CompressionZSTD,
		"gzip": clickhouse.CompressionGZIP, "deflate": clickhouse.CompressionDeflate, "br": clickhouse.CompressionBrotli,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, ctx := connect(t, base, method), t.Context()
			table := fmt.Sprintf("types_%d", method)
			must(t, c.Exec(ctx, "CREATE TABLE "+table+` (
				at DateTime64(6, 'UTC'), low LowCardinality(String), lown LowCardinality(Nullable(String)), m Map(String, String),
				a Array(Array(Int32)), id UUID, ip IPv6, doc JSON, e Enum8('allow'=1, 'deny'=2), n Nullable(Int64), s String, t Tuple(a Int8, b String),
				ml Map(LowCardinality(String), Array(LowCardinality(String))), d Decimal(18, 4), b Bool, f FixedString(3)
			) ENGINE = MergeTree ORDER BY at`))
			at := time.Date(2026, 11, 23, 2, 3, 4, 567891000, time.UTC)
			id, ip := uuid.New(), net.ParseIP("2001:db8::1")
			text := "line\nline \x00 it's \\ \"é\""
			batch, err := c.PrepareBatch(ctx, "INSERT INTO "+table)
			must(t, err)
			for i := range 3 {
				var n *int64
				if i > 0 {
					v := int64(-i)
					n = &v
				}
				must(t, batch.Append(at.Add(time.Duration(i)*time.Second), "same", &text, map[string]string{"k": text}, [][]int32{{1, 2}, {}, {int32(i)}},
					id, ip, `{"a":{"b":1},"c":"x"}`, "deny", n, text, []any{int8(i), "b"},
					map[string][]string{"x": {"y", "z"}}, "12.3400", true, "abc"))
			}
			must(t, batch.Send())
			rows, err := c.Query(ctx, "SELECT at, low, lown, m, a, id, ip, toString(doc), e, n, s, ml, b, f FROM "+table+" ORDER BY at")
			must(t, err)
			defer func() { _ = rows.Close() }()
			count := 0
			for ; rows.Next(); count++ {
				var (
					gotAt             time.Time
					low, doc, e, s, f string
					lown              *string
					m                 map[string]string
					a                 [][]int32
					gotID             uuid.UUID
					gotIP             net.IP
					n                 *int64
					ml                map[string][]string
					b                 bool
				)
				must(t, rows.Scan(&gotAt, &low, &lown, &m, &a, &gotID, &gotIP, &doc, &e, &n, &s, &ml, &b, &f))
				if !gotAt.Equal(at.Add(time.Duration(count)*time.Second)) || low != "same" || lown == nil || *lown != text || m["k"] != text ||
					!reflect.DeepEqual(a, [][]int32{{1, 2}, {}, {int32(count)}}) || gotID != id || !gotIP.Equal(ip) ||
					doc != `{"a":{"b":1},"c":"x"}` || e != "deny" || (n == nil) != (count == 0) || s != text || len(ml["x"]) != 2 || !b || f != "abc" {
					t.Errorf("row %d came back as %v %q %v %v %v %v %v %s %s %v %q %v", count, gotAt, low, lown, m, a, gotID, gotIP, doc, e, n, s, ml)
				}
			}
			must(t, rows.Err())
			if count != 3 {
				t.Errorf("%d rows came back, 3 were sent", count)
			}
			var doc clickhouse.JSON
			must(t, c.QueryRow(ctx, "SELECT doc FROM "+table+" LIMIT 1").Scan(&doc))
			if v, ok := doc.ValueAtPath("c"); !ok || fmt.Sprint(v) == "" {
				t.Errorf("JSON column came back as %v", doc)
			}
			var ex *clickhouse.Exception
			if err := c.QueryRow(ctx, "SELECT nosuch").Scan(new(string)); !errors.As(err, &ex) || ex.Code != 47 {
				t.Errorf("an unknown column gives %v, not exception 47", err)
			}
			if err := c.QueryRow(ctx, "SELECT throwIf(number = 400000) FROM numbers(500000)").Scan(new(uint8)); err != nil && !errors.As(err, &ex) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAnErrorAfterTheFirstRowsReachesTheDriver(t *testing.T) {
	t.Parallel()
	c := connect(t, server(t), clickhouse.CompressionLZ4)
	rows, err := c.Query(t.Context(), "SELECT throwIf(number = 4000000) FROM numbers(5000000)")
	must(t, err)
	n := 0
	for rows.Next() {
		n++
	}
	var ex *clickhouse.Exception
	if err := rows.Err(); n == 0 || !errors.As(err, &ex) || ex.Code != 395 {
		t.Errorf("after %d rows the error is %v, not exception 395", n, rows.Err())
	}
}

func TestAMillionRowsInBatches(t *testing.T) {
	t.Parallel()
	c, ctx := connect(t, server(t), clickhouse.CompressionLZ4), t.Context()
	must(t, c.Exec(ctx, "CREATE TABLE million (n UInt64, s LowCardinality(String)) ENGINE = MergeTree ORDER BY n"))
	const total, size = 1_000_000, 250_000
	for from := 0; from < total; from += size {
		b, err := c.PrepareBatch(ctx, "INSERT INTO million")
		must(t, err)
		for n := from; n < from+size; n++ {
			must(t, b.Append(uint64(n), fmt.Sprint("kind-", n%7)))
		}
		must(t, b.Send())
	}
	rows, err := c.Query(ctx, "SELECT n, s FROM million ORDER BY n")
	must(t, err)
	defer func() { _ = rows.Close() }()
	want := uint64(0)
	var (
		n uint64
		s string
	)
	for ; rows.Next(); want++ {
		must(t, rows.Scan(&n, &s))
		if n != want || s != fmt.Sprint("kind-", n%7) {
			t.Fatalf("row %d came back as %d %q", want, n, s)
		}
	}
	must(t, rows.Err())
	if want != total {
		t.Errorf("%d rows came back", want)
	}
}

func TestDriverParametersSettingsAndDeadline(t *testing.T) {
	t.Parallel()
	c := connect(t, server(t), clickhouse.CompressionNone)
	ctx := clickhouse.Context(t.Context(), clickhouse.WithParameters(clickhouse.Parameters{"who": "it's \\ me", "n": "42"}),
		clickhouse.WithSettings(clickhouse.Settings{"max_threads": 1}))
	var who, threads string
	var n uint32
	must(t, c.QueryRow(ctx, "SELECT {who:String}, {n:UInt32}, toString(getSetting('max_threads'))").Scan(&who, &n, &threads))
	if n != 42 || threads != "1" {
		t.Errorf("got %q %d %q", who, n, threads)
	}
	soon, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := c.Query(soon, "SELECT sum(sleepEachRow(0.1)) FROM numbers(300) SETTINGS max_block_size = 1, function_sleep_max_microseconds_per_block = 100000000")
	if err == nil || time.Since(began) > 5*time.Second {
		t.Errorf("deadline gave %v after %v", err, time.Since(began))
	}
	// The query itself ends too, not only the wait for it.
	left := uint64(1)
	for end := time.Now().Add(10 * time.Second); left > 0 && time.Now().Before(end); {
		must(t, c.QueryRow(t.Context(), "SELECT count() FROM system.processes WHERE query LIKE '%sleepEachRow%' AND query NOT LIKE '%processes%'").Scan(&left))
	}
	if left > 0 {
		t.Error("the query of a client that left runs on")
	}
}

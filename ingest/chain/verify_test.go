package chain

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/tipstaff-dev/tipstaff/internal/chdb"
	"github.com/tipstaff-dev/tipstaff/schema"
)

func TestMain(m *testing.M) {
	chdb.MaybeRunEngine()
	os.Exit(m.Run())
}

// store is a ClickHouse of the test's own with the schema made.
func store(t *testing.T) driver.Conn {
	t.Helper()
	lib := os.Getenv("TIPSTAFF_LIBCHDB")
	if lib == "" {
		var err error
		if lib, err = filepath.Abs("../../tools/chdb/node_modules/@chdb/lib-linux-x64-gnu/libchdb.so"); err != nil {
			t.Fatal(err)
		}
	}
	s, err := chdb.New(chdb.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", Library: lib}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the engine ended with: %v", err)
		}
	})
	select {
	case <-s.Ready():
	case <-time.After(time.Minute):
		t.Fatal("the ClickHouse engine did not start")
	}
	conn, err := schema.ClickHouse{URL: "http://" + s.Addr()}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := schema.Migrate(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	return conn
}

func key(seed byte) *Key {
	return NewKey(ed25519.NewKeyFromSeed(slices.Repeat([]byte{seed}, ed25519.SeedSize)))
}

var start = time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)

// events are rows of a batch: three of run a, two of run b, one of nobody's.
func events(cluster string, batch int) []schema.Event {
	var all []schema.Event
	for i, run := range []string{"a", "a", "a", "b", "b", ""} {
		at := start.Add(time.Duration(batch)*time.Minute + time.Duration(i)*time.Microsecond)
		all = append(all, schema.Event{
			Cluster: cluster, AuditID: fmt.Sprintf("%d-%d", batch, i), Stage: "ResponseComplete", Received: at, StageTime: at.Add(time.Millisecond),
			Verb: "create", User: "agent:x", Run: run, RunKey: run, Annotations: map[string]string{"k": "v", "l": "w"}, RequestObject: `{"a":1}`,
		})
	}
	return all
}

// put writes events as ingest does.
func put(t *testing.T, conn driver.Conn, h *Head, all []schema.Event) *Head {
	t.Helper()
	b, err := NewBatch(all[0].Cluster, all)
	if err != nil {
		t.Fatal(err)
	}
	next, err := Extend(h, b, start, key(1))
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		schema.Insert(t.Context(), conn, all), schema.InsertChainRows(t.Context(), conn, b.Rows),
		schema.InsertChainBatches(t.Context(), conn, []schema.ChainBatch{next.Last}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return next
}

// written writes three batches of a cluster, in one of which a row is there twice.
func written(t *testing.T, conn driver.Conn, cluster string) *Head {
	t.Helper()
	var h *Head
	for i := range 3 {
		all := events(cluster, i)
		if i == 1 {
			all = append(all, all[2])
		}
		h = put(t, conn, h, all)
	}
	return h
}

func verified(t *testing.T, conn driver.Conn, cluster string, o Options) *Report {
	t.Helper()
	if o.Keys == nil {
		o.Keys = key(1).Keys
	}
	o.settle = time.Nanosecond
	r, err := Verify(t.Context(), conn, cluster, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// found are a report's findings, in short.
func found(r *Report) []string {
	all := []string{}
	for _, f := range r.Findings {
		text := f.Kind
		if f.Leaf != nil {
			text += fmt.Sprint(" ", *f.Leaf)
		}
		if f.AuditID != "" {
			text += " " + f.AuditID
		}
		all = append(all, text)
	}
	return all
}

func TestWhatIsAsItWasWrittenIsProven(t *testing.T) {
	t.Parallel()
	conn := store(t)
	h := written(t, conn, "c")
	again := put(t, conn, h, events("c", 1)) // redelivered
	put(t, conn, nil, events("other", 0))
	r := verified(t, conn, "c", Options{Checkpoints: []string{h.Last.Checkpoint, again.Last.Checkpoint}})
	if len(r.Findings) > 0 || r.Rows != 18 || r.Leaves != 4 || r.Older != 0 || r.Replaced != 0 {
		t.Errorf("%+v", r)
	}
	if r := verified(t, conn, "c", Options{RunKey: "b"}); len(r.Findings) > 0 || r.Rows != 6 {
		t.Errorf("one run: %+v", r)
	}
	if r := verified(t, conn, "c", Options{Keys: key(2).Keys}); len(r.Findings) == 0 {
		t.Error("another key than the one that signed proves it too")
	}
}

// Every way to change what was written is named, with the row where it is one; what
// is told of one run is of that run.
func TestEveryChangeIsNamed(t *testing.T) {
	t.Parallel()
	conn := store(t)
	for i, row := range []struct {
		name    string
		sql     []string
		insert  []schema.Event // of what is none of ingest's
		kept    int            // checkpoint kept elsewhere: its size
		forge   func(t *testing.T, cluster string)
		want    []string
		wantOfA []string
	}{
		{name: "a row is removed", sql: []string{`ALTER TABLE tipstaff.audit_events DELETE WHERE cluster = '$' AND audit_id = '1-3'`}, want: []string{"removed 1 1-3"}},
		{name: "a run's row is removed", sql: []string{`ALTER TABLE tipstaff.audit_events DELETE WHERE cluster = '$' AND audit_id = '1-1'`}, want: []string{"removed 1 1-1"}, wantOfA: []string{"removed 1 1-1"}},
		{name: "a row is altered", sql: []string{`ALTER TABLE tipstaff.audit_events UPDATE verb = 'get' WHERE cluster = '$' AND audit_id = '2-0'`}, want: []string{"altered 2 2-0"}, wantOfA: []string{"altered 2 2-0"}},
		{name: "an annotation is altered", sql: []string{`ALTER TABLE tipstaff.audit_events UPDATE annotations = map('k', 'v', 'l', '') WHERE cluster = '$' AND audit_id = '2-5'`}, want: []string{"altered 2 2-5"}},
		{name: "a row is inserted", insert: events("$", 7)[:1], want: []string{"inserted 7-0"}, wantOfA: []string{"inserted 7-0"}},
		{name: "a row is replaced by an insert", insert: func() []schema.Event { e := events("$", 0)[:1]; e[0].User = "somebody else"; return e }(),
			want: []string{"altered 0 0-0"}, wantOfA: []string{"altered 0 0-0"}},
		{name: "a row is removed, and what is told of it", sql: []string{
			`ALTER TABLE tipstaff.audit_events DELETE WHERE cluster = '$' AND audit_id = '1-4'`,
			`ALTER TABLE tipstaff.chain_rows DELETE WHERE cluster = '$' AND audit_id = '1-4'`,
		}, want: []string{"removed 1"}},
		{name: "a row is altered, and what is told of it", forge: func(t *testing.T, cluster string) {
			e := events(cluster, 2)
			e[0].Verb = "get"
			b, err := NewBatch(cluster, e)
			if err != nil {
				t.Fatal(err)
			}
			right, err := NewBatch(cluster, events(cluster, 2))
			if err != nil {
				t.Fatal(err)
			}
			for i := range b.Rows {
				b.Rows[i].Batch = right.Rows[0].Batch
			}
			if err := schema.Insert(t.Context(), conn, e); err != nil {
				t.Fatal(err)
			}
			if err := schema.InsertChainRows(t.Context(), conn, b.Rows); err != nil {
				t.Fatal(err)
			}
		}, want: []string{"batch-changed 2"}, wantOfA: []string{"batch-changed 2"}},
		{name: "a removed row is made to look replaced", sql: []string{
			`ALTER TABLE tipstaff.audit_events DELETE WHERE cluster = '$' AND audit_id = '1-4'`,
			`INSERT INTO tipstaff.chain_rows SELECT c.cluster, c.run_key, c.received, c.audit_id, c.stage, c.stage_time, c.source,
				(SELECT any(batch) FROM tipstaff.chain_rows WHERE cluster = '$' AND audit_id = '1-4') AS batch, 4 AS place, 7 AS hash
				FROM tipstaff.chain_rows AS c WHERE c.cluster = '$' AND c.audit_id = '2-0'`,
			`ALTER TABLE tipstaff.chain_rows DELETE WHERE cluster = '$' AND audit_id = '1-4'`,
		}, want: []string{"batch-changed 1"}},
		{name: "a forged row is given a place in a batch", forge: func(t *testing.T, cluster string) {
			e := events(cluster, 2)[:1]
			e[0].AuditID = "forged"
			b, err := NewBatch(cluster, e)
			if err != nil {
				t.Fatal(err)
			}
			right, err := NewBatch(cluster, events(cluster, 2))
			if err != nil {
				t.Fatal(err)
			}
			b.Rows[0].Batch = right.Rows[0].Batch
			if err := schema.Insert(t.Context(), conn, e); err != nil {
				t.Fatal(err)
			}
			if err := schema.InsertChainRows(t.Context(), conn, b.Rows); err != nil {
				t.Fatal(err)
			}
		}, want: []string{"batch-changed 2"}, wantOfA: []string{"batch-changed 2"}},
		{name: "a leaf is removed", sql: []string{`ALTER TABLE tipstaff.chain_batches DELETE WHERE cluster = '$' AND leaf = 1`},
			want: []string{"leaf-missing 1", "inserted 1-0", "inserted 1-1", "inserted 1-2", "inserted 1-3", "inserted 1-4", "inserted 1-5"}},
		{name: "a leaf is altered", sql: []string{`ALTER TABLE tipstaff.chain_batches UPDATE rows = 5 WHERE cluster = '$' AND leaf = 1`}, want: []string{"leaf-altered 1", "batch-changed 1", "inserted 1-5"}},
		{name: "the end is cut off", kept: 3, sql: []string{
			`ALTER TABLE tipstaff.audit_events DELETE WHERE cluster = '$' AND audit_id LIKE '2-%'`,
			`ALTER TABLE tipstaff.chain_rows DELETE WHERE cluster = '$' AND audit_id LIKE '2-%'`,
			`ALTER TABLE tipstaff.chain_batches DELETE WHERE cluster = '$' AND leaf = 2`,
		}, want: []string{"cut-off"}},
		{name: "nothing is left", kept: 3, sql: []string{
			`ALTER TABLE tipstaff.audit_events DELETE WHERE cluster = '$'`,
			`ALTER TABLE tipstaff.chain_rows DELETE WHERE cluster = '$'`,
			`ALTER TABLE tipstaff.chain_batches DELETE WHERE cluster = '$'`,
		}, want: []string{"cut-off"}},
		{name: "another log is in its place, signed by the same key", kept: 2, forge: func(t *testing.T, cluster string) {
			h := put(t, conn, nil, events(cluster, 0))
			put(t, conn, put(t, conn, h, events(cluster, 2)), events(cluster, 1))
		}, want: []string{"forked 1"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			cluster := fmt.Sprint("c", i)
			var kept []string
			var h *Head
			for batch := range 3 {
				h = put(t, conn, h, events(cluster, batch))
				if batch+1 == row.kept {
					kept = append(kept, h.Last.Checkpoint)
				}
			}
			for _, sql := range row.sql {
				if strings.HasPrefix(sql, "ALTER") {
					sql += " SETTINGS mutations_sync = 2"
				}
				if err := conn.Exec(t.Context(), strings.ReplaceAll(sql, "$", cluster)); err != nil {
					t.Fatal(err)
				}
			}
			for i := range row.insert {
				row.insert[i].Cluster = cluster
			}
			if err := schema.Insert(t.Context(), conn, row.insert); err != nil {
				t.Fatal(err)
			}
			if row.forge != nil {
				row.forge(t, cluster)
			}
			r := verified(t, conn, cluster, Options{Checkpoints: kept})
			if got := found(r); !sameElements(got, row.want) {
				t.Errorf("found %q, want %q\n%+v", got, row.want, r.Findings)
			}
			if row.wantOfA != nil {
				if got := found(verified(t, conn, cluster, Options{RunKey: "a"})); !sameElements(got, row.wantOfA) {
					t.Errorf("of run a found %q, want %q", got, row.wantOfA)
				}
			}
		})
	}
}

func sameElements(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

// What was there before the log is counted, and what a later batch has replaced.
func TestOlderAndReplacedRowsAreCounted(t *testing.T) {
	t.Parallel()
	conn := store(t)
	old := events("c", -10)
	if err := schema.Insert(t.Context(), conn, old); err != nil {
		t.Fatal(err)
	}
	h := written(t, conn, "c")
	again := events("c", 1)[:1]
	again[0].RequestObject = `{"a":"another mark"}`
	put(t, conn, h, again)
	if r := verified(t, conn, "c", Options{}); len(r.Findings) > 0 || r.Older != 6 || r.Replaced != 1 || r.Rows != 18 {
		t.Errorf("%+v", r)
	}
}

func TestALogGoesOnFromItsLeaves(t *testing.T) {
	t.Parallel()
	var leaves []schema.ChainBatch
	var h *Head
	extend := func(from *Head, i int, k *Key) (*Head, error) {
		b, err := NewBatch("c", events("c", i))
		if err != nil {
			t.Fatal(err)
		}
		return Extend(from, b, start, k)
	}
	for i := range 11 {
		var err error
		if h, err = extend(h, i, key(1)); err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, h.Last)
		rebuilt, err := Rebuild(leaves, key(1).Keys)
		if err != nil || !reflect.DeepEqual(rebuilt, h) {
			t.Fatalf("rebuilt %+v, %v; want %+v", rebuilt, err, h)
		}
	}
	if _, err := extend(h, 11, key(2)); err == nil {
		t.Error("a log is extended by a key that didn't sign it")
	}
	if next, err := extend(h, 11, NewKey(key(2).private, key(1).Keys...)); err != nil {
		t.Errorf("a successor's key: %v", err)
	} else if _, _, err := key(2).Keys.Open("c", next.Last.Checkpoint); err != nil {
		t.Errorf("the successor didn't sign: %v", err)
	}
	if _, err := Rebuild(append(leaves[:4:4], leaves[5:]...), key(1).Keys); err == nil {
		t.Error("a log with a leaf missing is rebuilt")
	}
	leaves[3].Rows++
	if _, err := Rebuild(leaves, key(1).Keys); err == nil {
		t.Error("a log with a leaf altered is rebuilt")
	}
	h.Frontier[0][0]++
	if _, err := extend(h, 11, key(1)); err == nil {
		t.Error("a head with another frontier is extended")
	}
	if _, err := NewBatch("c", nil); err == nil {
		t.Error("a batch has no rows")
	}
}

func FuzzOpen(f *testing.F) {
	b, err := NewBatch("c", events("c", 0))
	if err != nil {
		f.Fatal(err)
	}
	h, err := Extend(nil, b, start, key(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(h.Last.Checkpoint)
	f.Add("tipstaff.dev/audit/c\n1\nx\n\n— tipstaff.dev/audit/c AAAA\n")
	f.Fuzz(func(t *testing.T, text string) {
		// Signatures can't be forged, and their base64 has one form.
		if _, _, err := key(1).Keys.Open("c", text); err == nil && text != h.Last.Checkpoint && !strings.HasPrefix(text, strings.SplitAfter(h.Last.Checkpoint, "\n\n")[0]) {
			t.Errorf("%q opens", text)
		}
	})
}

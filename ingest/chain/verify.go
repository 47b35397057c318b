package chain

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/tipstaff-dev/tipstaff/schema"
)

// Kinds of findings.
const (
	// Removed is a row that was stored and isn't there.
	Removed = "removed"
	// Altered is a row that is there with other content.
	Altered = "altered"
	// Inserted is a row that is in no batch.
	Inserted = "inserted"
	// BatchChanged is a batch whose rows are not those that it was signed with,
	// where nothing says which of them.
	BatchChanged = "batch-changed"
	// LeafMissing is a leaf of the log that isn't there: from it on nothing is proven.
	LeafMissing = "leaf-missing"
	// LeafAltered is one that isn't what was signed: from it on nothing is proven.
	LeafAltered = "leaf-altered"
	// CutOff is a log that was longer than it is.
	CutOff = "cut-off"
	// Forked is a log that was another.
	Forked = "forked"
)

// Finding is something that isn't as it was stored.
type Finding struct {
	Kind string `json:"kind"`
	// Leaf is the batch's in the log, nil for a row that is in none.
	Leaf *uint64 `json:"leaf,omitempty"`
	// Time to Stage name the row, where it is one.
	Time    *time.Time `json:"time,omitempty"`
	RunKey  string     `json:"runKey,omitempty"`
	AuditID string     `json:"auditID,omitempty"`
	Stage   string     `json:"stage,omitempty"`
	Detail  string     `json:"detail"`
}

// Report is what Verify saw of one cluster.
type Report struct {
	Cluster string `json:"cluster"`
	// Leaves is the log's length, Rows how many rows agree with it.
	Leaves uint64 `json:"leaves"`
	Rows   uint64 `json:"rows"`
	// Began is when the first batch was stored, Older how many rows from before
	// then are in no batch: nothing is proven of them.
	Began *time.Time `json:"began,omitempty"`
	Older uint64     `json:"older,omitempty"`
	// Replaced is how many rows were stored again later with other content, such as
	// another mark: the log has both, ClickHouse the later.
	Replaced uint64    `json:"replaced,omitempty"`
	Findings []Finding `json:"findings"`
	// More is how many findings there are beside those.
	More uint64 `json:"more,omitempty"`
}

// maxFindings bounds a report.
const maxFindings = 10_000

func (r *Report) add(f Finding) {
	if len(r.Findings) == maxFindings {
		r.More++
		return
	}
	r.Findings = append(r.Findings, f)
}

// Options say what is looked at.
type Options struct {
	Keys Keys
	// Checkpoints are signed heads that were kept elsewhere.
	Checkpoints []string
	// RunKey is of the only run whose rows are looked at, with the batches they are
	// in; empty is every row.
	RunKey string
	// settle is how long a row may be there before its batch is; zero is settleTime.
	settle time.Duration
}

// windowRows bounds how many rows are in memory at once; a minute more may go over.
const windowRows = 200_000

// Verify computes the log of a cluster again from what is in ClickHouse. An error
// means that it could not be done.
func Verify(ctx context.Context, conn driver.Conn, cluster string, o Options) (*Report, error) {
	v := &verifier{conn: conn, cluster: cluster, o: o, report: &Report{Cluster: cluster, Findings: []Finding{}}, batches: map[uint64]*open{}}
	if err := v.log(ctx); err != nil {
		return nil, err
	}
	if err := v.rows(ctx); err != nil {
		return nil, err
	}
	return v.report, nil
}

type verifier struct {
	conn    driver.Conn
	cluster string
	o       Options
	report  *Report
	// batches are those of the log, by what rows call them.
	batches map[uint64]*open
	// from and to are the times of the rows to look at, to being after the last.
	from, to time.Time
	// loose are rows that were in no batch when they were seen.
	loose []schema.Event
}

// open is a batch whose rows are being looked for.
type open struct {
	schema.ChainBatch
	// wanted says that all of its rows will be seen.
	wanted bool
	// list are the hashes of what chain_rows say of its rows, rows those of the rows
	// that agree with it.
	list, rows hashes
	// listChanged says that there is a finding about the list.
	listChanged bool
}

// hashes are a tree's leaves by their place, of which seen are known.
type hashes struct {
	leaves [][]byte
	seen   uint32
}

// set notes a leaf. It reports whether there was one at that place before, and whether
// it was the last one wanted.
func (h *hashes) set(place, of uint32, leaf []byte) (twice, whole bool) {
	if h.seen == of {
		return true, false
	}
	if h.leaves == nil {
		h.leaves = make([][]byte, of)
	}
	if h.leaves[place] != nil {
		return true, false
	}
	h.leaves[place] = leaf
	h.seen++
	return false, h.seen == of
}

// root is that of the whole tree, base64. The leaves are let go.
func (h *hashes) root() string {
	tree := trees.NewEmptyRange(0)
	for _, leaf := range h.leaves {
		if err := tree.Append(leaf, nil); err != nil { // not of leaves in their order
			return err.Error()
		}
	}
	h.leaves = nil
	root, err := tree.GetRootHash(nil)
	if err != nil {
		return err.Error()
	}
	return base64.StdEncoding.EncodeToString(root)
}

// log reads the leaves and compares them with the checkpoints.
func (v *verifier) log(ctx context.Context) error {
	rows, err := v.conn.Query(ctx, `SELECT cluster, leaf, batch, rows, first, last, stored, root, listed, checkpoint FROM tipstaff.chain_batches FINAL WHERE cluster = ? ORDER BY leaf`, v.cluster)
	if err != nil {
		return fmt.Errorf("read the log of cluster %s: %w", v.cluster, err)
	}
	defer func() { _ = rows.Close() }() // read to its end or given up
	type promised struct {
		size uint64
		root []byte
	}
	var kept []promised
	for _, text := range v.o.Checkpoints {
		size, root, err := v.o.Keys.Open(v.cluster, text)
		if err != nil {
			return err
		}
		kept = append(kept, promised{size, root})
	}
	slices.SortFunc(kept, func(a, b promised) int { return cmp.Compare(a.size, b.size) })
	tree, whole := trees.NewEmptyRange(0), true
	var last *schema.ChainBatch
	for rows.Next() {
		var leaf schema.ChainBatch
		if err := rows.ScanStruct(&leaf); err != nil {
			return fmt.Errorf("read the log of cluster %s: %w", v.cluster, err)
		}
		if v.report.Began == nil {
			v.report.Began = &leaf.Stored
		}
		v.batches[leaf.Batch] = &open{ChainBatch: leaf, wanted: v.o.RunKey == ""}
		if whole && leaf.Leaf != tree.End() {
			n := tree.End()
			v.report.add(Finding{Kind: LeafMissing, Leaf: &n, Detail: fmt.Sprintf("leaves %d to %d of the log are missing: what follows is not proven", n, leaf.Leaf-1)})
			whole = false
		}
		if whole {
			if why := v.extend(tree, &leaf); why != "" {
				v.report.add(Finding{Kind: LeafAltered, Leaf: &leaf.Leaf, Time: &leaf.Stored, Detail: "leaf of the log: " + why + ": what follows is not proven"})
				whole = false
			}
		}
		for whole && len(kept) > 0 && kept[0].size <= tree.End() {
			if root, err := tree.GetRootHash(nil); err != nil || kept[0].size == tree.End() && !bytes.Equal(root, kept[0].root) {
				v.report.add(Finding{Kind: Forked, Leaf: &leaf.Leaf, Detail: fmt.Sprintf("the log's first %d leaves are not those that a checkpoint kept elsewhere was signed for", kept[0].size)})
			}
			kept = kept[1:]
		}
		last = &leaf
		v.report.Leaves++
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the log of cluster %s: %w", v.cluster, err)
	}
	if n := len(kept); n > 0 && whole {
		v.report.add(Finding{Kind: CutOff, Detail: fmt.Sprintf("a checkpoint kept elsewhere was signed for %d leaves, the log has %d: its end was removed", kept[n-1].size, tree.End())})
	}
	if last != nil && whole {
		if err := v.o.Keys.check(last, tree); err != nil {
			v.report.add(Finding{Kind: LeafAltered, Leaf: &last.Leaf, Time: &last.Stored, Detail: "the log's head: " + err.Error()})
		}
	}
	return nil
}

// extend adds a leaf, and says what is wrong with it: its own checkpoint tells the
// first that was altered.
func (v *verifier) extend(tree *compact.Range, leaf *schema.ChainBatch) string {
	if err := tree.Append(leafHash(leaf), nil); err != nil {
		return err.Error()
	}
	root, err := base64.StdEncoding.DecodeString(leaf.Root)
	if err != nil || len(root) != 32 || short(root) != leaf.Batch {
		return "its batch and its root don't belong together"
	}
	size, signed, err := v.o.Keys.Open(v.cluster, leaf.Checkpoint)
	if err != nil {
		return err.Error()
	}
	computed, err := tree.GetRootHash(nil)
	if err != nil || size != tree.End() || !bytes.Equal(signed, computed) {
		return "it is not what its checkpoint was signed for"
	}
	return ""
}

// rows compares the rows with what the log's batches say of them.
func (v *verifier) rows(ctx context.Context) error {
	v.to = time.Date(2299, 1, 1, 0, 0, 0, 0, time.UTC)
	v.from = time.Unix(0, 0)
	if v.o.RunKey != "" {
		if err := v.only(ctx); err != nil {
			return err
		}
	}
	windows, err := v.windows(ctx)
	if err != nil {
		return err
	}
	for i := 0; i+1 < len(windows); i++ {
		if err := v.window(ctx, windows[i], windows[i+1]); err != nil {
			return err
		}
	}
	v.incomplete()
	return v.inserted(ctx)
}

// only narrows what is looked at to the batches that have a row of the run.
func (v *verifier) only(ctx context.Context) error {
	var ids []struct {
		Batch uint64 `ch:"batch"`
	}
	if err := v.conn.Select(ctx, &ids, `SELECT DISTINCT batch FROM tipstaff.chain_rows WHERE cluster = ? AND run_key = ?`, v.cluster, v.o.RunKey); err != nil {
		return fmt.Errorf("read the batches of the run: %w", err)
	}
	first := true
	widen := func(from, to time.Time) {
		if first || from.Before(v.from) {
			v.from = from
		}
		if to = to.Add(time.Microsecond); first || to.After(v.to) {
			v.to = to
		}
		first = false
	}
	for _, id := range ids {
		if b := v.batches[id.Batch]; b != nil {
			b.wanted = true
			widen(b.First, b.Last)
		}
	}
	var own []struct {
		First time.Time `ch:"first"`
		Last  time.Time `ch:"last"`
	}
	if err := v.conn.Select(ctx, &own, `SELECT min(received) AS first, max(received) AS last FROM tipstaff.audit_events WHERE cluster = ? AND run_key = ? HAVING count() > 0`, v.cluster, v.o.RunKey); err != nil {
		return fmt.Errorf("read the times of the run: %w", err)
	}
	for _, o := range own {
		widen(o.First, o.Last)
	}
	if first {
		v.to = v.from // nothing is there
	}
	return nil
}

// windows cuts the time to look at where about windowRows lie between.
func (v *verifier) windows(ctx context.Context) ([]time.Time, error) {
	var minutes []struct {
		Minute time.Time `ch:"minute"`
		Rows   uint64    `ch:"n"`
	}
	err := v.conn.Select(ctx, &minutes, `
		SELECT toStartOfInterval(received, INTERVAL 1 MINUTE) AS minute, count() AS n FROM (
			SELECT received FROM tipstaff.chain_rows WHERE cluster = ? AND received >= fromUnixTimestamp64Micro(?) AND received < fromUnixTimestamp64Micro(?)
			UNION ALL SELECT received FROM tipstaff.audit_events WHERE cluster = ? AND received >= fromUnixTimestamp64Micro(?) AND received < fromUnixTimestamp64Micro(?)
		) GROUP BY minute ORDER BY minute`,
		v.cluster, v.from.UnixMicro(), v.to.UnixMicro(), v.cluster, v.from.UnixMicro(), v.to.UnixMicro())
	if err != nil {
		return nil, fmt.Errorf("read the times of the rows: %w", err)
	}
	var cuts []time.Time
	var rows uint64
	for _, m := range minutes {
		if rows += m.Rows; len(cuts) == 0 || rows > windowRows {
			cuts, rows = append(cuts, m.Minute), m.Rows
		}
	}
	if len(minutes) > 0 {
		cuts = append(cuts, minutes[len(minutes)-1].Minute.Add(time.Minute))
	}
	return cuts, nil
}

// place is where a row is in a batch, by what the batch says of it.
type place struct {
	batch *open
	place uint32
	hash  uint64
}

const placesSQL = `SELECT cluster, run_key, received, audit_id, stage, stage_time, source, batch, place, hash FROM tipstaff.chain_rows FINAL`

const betweenSQL = ` WHERE cluster = ? AND received >= fromUnixTimestamp64Micro(?) AND received < fromUnixTimestamp64Micro(?)`

// window compares the rows between two times.
func (v *verifier) window(ctx context.Context, from, to time.Time) error {
	args := []any{v.cluster, max(from.UnixMicro(), v.from.UnixMicro()), min(to.UnixMicro(), v.to.UnixMicro())}
	places, err := v.places(ctx, placesSQL+betweenSQL, args...)
	if err != nil {
		return err
	}
	rows, err := v.conn.Query(ctx, `SELECT * FROM tipstaff.audit_events FINAL`+betweenSQL, args...)
	if err != nil {
		return fmt.Errorf("read the rows: %w", err)
	}
	defer func() { _ = rows.Close() }() // read to its end or given up
	var canonical []byte
	for rows.Next() {
		var e schema.Event
		if err := rows.ScanStruct(&e); err != nil {
			return fmt.Errorf("read the rows: %w", err)
		}
		key := e.Key()
		canonical = e.AppendCanonical(canonical[:0])
		v.row(&e, rfc6962.DefaultHasher.HashLeaf(canonical), places[key])
		delete(places, key)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the rows: %w", err)
	}
	for key, all := range places {
		v.tell(Removed, key, all, "the row is not there any more")
	}
	return nil
}

// places are those that a query gives.
func (v *verifier) places(ctx context.Context, sql string, args ...any) (map[schema.RowKey][]place, error) {
	rows, err := v.conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read what the batches say: %w", err)
	}
	defer func() { _ = rows.Close() }() // read to its end or given up
	places := map[schema.RowKey][]place{}
	for rows.Next() {
		var r schema.ChainRow
		if err := rows.ScanStruct(&r); err != nil {
			return nil, fmt.Errorf("read what the batches say: %w", err)
		}
		// One that is of no leaf was never signed: its insert was cut off.
		b := v.batches[r.Batch]
		if b == nil || r.Place >= b.Rows {
			continue
		}
		places[r.Key()] = append(places[r.Key()], place{b, r.Place, r.Hash})
		if !b.wanted || b.listChanged {
			continue
		}
		if twice, whole := b.list.set(r.Place, b.Rows, listed(&r)); twice || whole && b.list.root() != b.Listed {
			b.listChanged = true
			v.batch(b, BatchChanged, "what tipstaff.chain_rows says of its rows is not what was signed")
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read what the batches say: %w", err)
	}
	return places, nil
}

// row looks at one row, with what the batches say of it.
func (v *verifier) row(e *schema.Event, hash []byte, places []place) {
	if len(places) == 0 {
		switch {
		case !v.asked(e.RunKey):
		case v.report.Began == nil || e.Received.Before(*v.report.Began):
			v.report.Older++
		case len(v.loose) == maxFindings:
			v.report.More++
		default:
			v.loose = append(v.loose, schema.Event{RunKey: e.RunKey, AuditID: e.AuditID, Stage: e.Stage, Source: e.Source, Received: e.Received, StageTime: e.StageTime})
		}
		return
	}
	agrees := slices.ContainsFunc(places, func(p place) bool { return p.hash == short(hash) })
	if !agrees {
		v.tell(Altered, e.Key(), places, "the row is not as it was stored")
		return
	}
	if v.asked(e.RunKey) {
		v.report.Rows++
	}
	for _, p := range places {
		switch {
		case p.hash != short(hash):
			v.report.Replaced++
		case p.batch.wanted && !p.batch.listChanged:
			if _, whole := p.batch.rows.set(p.place, p.batch.Rows, hash); whole && p.batch.rows.root() != p.batch.Root {
				v.batch(p.batch, BatchChanged, "its rows are not what was signed, though each begins with the same hash")
			}
		}
	}
}

// asked reports whether a run's rows are asked for.
func (v *verifier) asked(runKey string) bool { return v.o.RunKey == "" || v.o.RunKey == runKey }

// batch notes a finding about a whole batch.
func (v *verifier) batch(b *open, kind, detail string) {
	v.report.add(Finding{Kind: kind, Leaf: &b.Leaf, Time: &b.Stored, Detail: fmt.Sprintf(
		"%s; it has %d rows from %s to %s", detail, b.Rows, b.First.UTC().Format(time.RFC3339Nano), b.Last.UTC().Format(time.RFC3339Nano))})
}

// tell notes a finding about a row that is in batches.
func (v *verifier) tell(kind string, key schema.RowKey, places []place, detail string) {
	if !v.asked(key.RunKey) {
		return
	}
	at := time.UnixMicro(key.Received).UTC()
	last := slices.MaxFunc(places, func(a, b place) int { return cmp.Compare(a.batch.Leaf, b.batch.Leaf) })
	v.report.add(Finding{Kind: kind, Leaf: &last.batch.Leaf, Time: &at, RunKey: key.RunKey, AuditID: key.AuditID, Stage: key.Stage, Detail: detail})
}

// incomplete names the batches of which chain_rows don't tell every row.
func (v *verifier) incomplete() {
	for _, b := range v.batches {
		if missing := b.Rows - b.list.seen; b.wanted && !b.listChanged && missing > 0 {
			v.batch(b, Removed, fmt.Sprintf("what tipstaff.chain_rows said of %d of its rows is not there any more, so nothing tells whether they are", missing))
		}
	}
	slices.SortStableFunc(v.report.Findings, func(a, b Finding) int {
		at := func(f Finding) time.Time {
			if f.Time == nil {
				return time.Time{}
			}
			return *f.Time
		}
		return at(a).Compare(at(b))
	})
}

// settleTime is how long ingest may take from a row to its batch's leaf.
const settleTime = 15 * time.Second

// inserted names the rows that are in no batch. Those that were being written when
// they were seen are in one soon after.
func (v *verifier) inserted(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for until := time.Now().Add(cmp.Or(v.o.settle, settleTime)); len(v.loose) > 0; {
		if err := v.settled(ctx); err != nil {
			return err
		}
		if time.Now().After(until) {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for i := range v.loose {
		e := &v.loose[i]
		v.report.add(Finding{Kind: Inserted, Time: &e.Received, RunKey: e.RunKey, AuditID: e.AuditID, Stage: e.Stage, Detail: "the row is in no batch of the log: it didn't come through ingest"})
	}
	return nil
}

// settled drops the loose rows that are in a batch by now.
func (v *verifier) settled(ctx context.Context) error {
	ids := make([]string, 0, len(v.loose))
	for i := range v.loose {
		ids = append(ids, v.loose[i].AuditID)
	}
	later := &verifier{conn: v.conn, cluster: v.cluster, o: Options{Keys: v.o.Keys}, report: &Report{}, batches: map[uint64]*open{}}
	if err := later.log(ctx); err != nil {
		return err
	}
	places, err := later.places(ctx, placesSQL+` WHERE cluster = ? AND audit_id IN (?)`, v.cluster, ids)
	if err != nil {
		return err
	}
	v.loose = slices.DeleteFunc(v.loose, func(e schema.Event) bool { return len(places[e.Key()]) > 0 })
	return nil
}

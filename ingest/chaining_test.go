package ingest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tipstaff-dev/tipstaff/ingest/chain"
)

// keyFile is a new key's.
func keyFile(t *testing.T) string {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "chain.key")
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// logging is an Ingest that keeps a log.
func logging(t *testing.T, js JetStream, c *Chain, store Store) (in *Ingest, stop func()) {
	t.Helper()
	log, _ := newLog(t)
	in, err := New(Config{Clusters: []string{"demo", "other"}, JetStream: js, Chain: c}, nil, masker(t), store, log)
	if err != nil {
		t.Fatal(err)
	}
	stop = running(t, in.Run)
	eventually(t, "the stream is ready", func() bool { return in.Ready() == nil })
	return in, stop
}

// distinct is a batch whose events nobody else has.
func distinct(t *testing.T, name string, i int) []byte {
	return []byte(strings.ReplaceAll(string(read(t, name)), `"auditID":"`, fmt.Sprintf(`"auditID":"%d-`, i)))
}

// proven verifies a cluster of which that many rows are to be there.
func proven(t *testing.T, in *Ingest, conn driver.Conn, cluster, key string, rows int, checkpoints ...string) *chain.Report {
	t.Helper()
	keys, err := chain.ReadPublicKeys(key)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is written", func() bool { return backlog(t, in) == 0 })
	r, err := chain.Verify(t.Context(), conn, cluster, chain.Options{Keys: keys, Checkpoints: checkpoints})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Findings) > 0 || r.Older > 0 || r.Rows != uint64(rows) {
		t.Errorf("want %d rows proven: %+v", rows, r)
	}
	return r
}

// Two replicas extend one log in turn, over restarts, and what they wrote is proven
// against the heads that were kept elsewhere.
func TestReplicasExtendOneLog(t *testing.T) {
	t.Parallel()
	store, _ := engine(t, t.TempDir(), "127.0.0.1:0")
	conn := open(t, store)
	url := remoteJetStream(t)
	c := &Chain{KeyFile: keyFile(t), CheckpointFile: filepath.Join(t.TempDir(), "checkpoints")}
	const batches = 24
	for round := range 2 {
		one, stopOne := logging(t, JetStream{URL: url}, c, store)
		two, stopTwo := logging(t, JetStream{URL: url}, c, store)
		for i := range batches / 2 {
			in := one
			if i%2 == 1 {
				in = two
			}
			cluster := "demo"
			if i%3 == 2 {
				cluster = "other"
			}
			mustPost(t, in, cluster, distinct(t, "agent.json", round*batches+i))
		}
		eventually(t, "all is written", func() bool { return backlog(t, one) == 0 })
		stopOne()
		stopTwo()
	}
	events := eventsIn(t, "agent.json")
	in, _ := logging(t, JetStream{URL: url}, c, store)
	var head string
	eventually(t, "the head is given", func() bool {
		w := ask(in, http.MethodGet, "/checkpoint/demo")
		head = w.Body.String()
		return w.Code == http.StatusOK
	})
	proven(t, in, conn, "demo", c.KeyFile, batches*2/3*events, head)
	proven(t, in, conn, "other", c.KeyFile, batches/3*events)
	kept, err := os.ReadFile(c.CheckpointFile)
	if err != nil {
		t.Fatal(err)
	}
	if leaves := count(t, conn, `SELECT count() FROM tipstaff.chain_batches FINAL`); strings.Count(string(kept), "\n") < int(leaves) {
		t.Errorf("%d leaves, but in the file there are\n%s", leaves, kept)
	}
}

// A leaf that got to JetStream alone gets to ClickHouse with the next one, and a
// JetStream that has lost the log goes on where ClickHouse is.
func TestALogOutlivesEitherStore(t *testing.T) {
	t.Parallel()
	store, _ := engine(t, t.TempDir(), "127.0.0.1:0")
	conn := open(t, store)
	dir := t.TempDir()
	c := &Chain{KeyFile: keyFile(t)}
	events := eventsIn(t, "agent.json")
	in, stop := logging(t, JetStream{Dir: dir}, c, store)
	for i := range 3 {
		mustPost(t, in, "demo", distinct(t, "agent.json", i))
		proven(t, in, conn, "demo", c.KeyFile, (i+1)*events)
	}
	stop()
	if err := conn.Exec(t.Context(), `ALTER TABLE tipstaff.chain_batches DELETE WHERE leaf = 1 SETTINGS mutations_sync = 2`); err != nil {
		t.Fatal(err)
	}
	in, stop = logging(t, JetStream{Dir: dir}, c, store)
	mustPost(t, in, "demo", distinct(t, "agent.json", 3))
	proven(t, in, conn, "demo", c.KeyFile, 4*events)
	stop()
	in, _ = logging(t, JetStream{Dir: t.TempDir()}, c, store)
	mustPost(t, in, "demo", distinct(t, "agent.json", 4))
	if r := proven(t, in, conn, "demo", c.KeyFile, 5*events); r.Leaves != 5 {
		t.Errorf("%d leaves, want 5", r.Leaves)
	}
}

func TestChainNeedsAKey(t *testing.T) {
	t.Parallel()
	log, _ := newLog(t)
	none := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(none, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Clusters: []string{"demo"}, Chain: &Chain{KeyFile: none}}, nil, masker(t), away{}, log); err == nil || !strings.Contains(err.Error(), "ingest.chain") {
		t.Errorf("got %v", err)
	}
}

// A cluster whose log another key signed waits, says so, and holds up no other; with
// that key named, what waited is written and logged.
func TestAReplacedKeyHoldsUpOnlyItsLog(t *testing.T) {
	t.Parallel()
	store, _ := engine(t, t.TempDir(), "127.0.0.1:0")
	conn := open(t, store)
	dir := t.TempDir()
	old, events := &Chain{KeyFile: keyFile(t)}, eventsIn(t, "agent.json")
	in, stop := logging(t, JetStream{Dir: dir}, old, store)
	mustPost(t, in, "demo", distinct(t, "agent.json", 0))
	proven(t, in, conn, "demo", old.KeyFile, events)
	stop()
	next := &Chain{KeyFile: keyFile(t)}
	in, stop = logging(t, JetStream{Dir: dir}, next, store)
	mustPost(t, in, "demo", distinct(t, "agent.json", 1))
	eventually(t, "it is counted", func() bool { return testutil.ToFloat64(in.metrics.chainFailures.WithLabelValues("demo")) > 0 })
	mustPost(t, in, "other", distinct(t, "agent.json", 2))
	eventually(t, "the other cluster's is written", func() bool { return backlog(t, in) == 1 })
	stop()
	next.FormerKeyFiles = []string{old.KeyFile}
	in, _ = logging(t, JetStream{Dir: dir}, next, store)
	eventually(t, "all is written", func() bool { return backlog(t, in) == 0 })
	proven(t, in, conn, "other", next.KeyFile, events)
	keys, err := chain.ReadPublicKeys(next.KeyFile, old.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := chain.Verify(t.Context(), conn, "demo", chain.Options{Keys: keys}); err != nil || len(r.Findings) > 0 || r.Rows != uint64(2*events) {
		t.Errorf("%+v, %v", r, err)
	}
}

package ingest

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tipstaff-dev/tipstaff/schema"
)

// spooling is an Ingest that stores in dir and forwards to url.
func spooling(t *testing.T, dir, url string, store Store) (in *Ingest, log *logs, stop func()) {
	t.Helper()
	sl, log := newLog(t)
	in, err := New(Config{Clusters: []string{"demo", "other"}, JetStream: JetStream{Dir: dir, URL: url}}, nil, masker(t), store, sl)
	if err != nil {
		t.Fatal(err)
	}
	stop = running(t, in.Run)
	eventually(t, "the spool is ready", func() bool { return in.Ready() == nil })
	return in, log, stop
}

// held gives the ids of what a stream of the remote server holds, in order.
func (r *remote) held(url, stream string) (ids []string) {
	r.t.Helper()
	log, _ := newLog(r.t)
	s, err := openStream(r.t.Context(), JetStream{URL: url}, log)
	if err != nil {
		r.t.Fatal(err)
	}
	defer s.close()
	held, err := s.js.Stream(r.t.Context(), stream)
	if err != nil {
		r.t.Fatal(err)
	}
	for seq := uint64(0); ; seq++ {
		msg, err := held.GetMsg(r.t.Context(), seq+1, jetstream.WithGetMsgSubject("tipstaff.>"))
		if err != nil {
			slices.Sort(ids)
			return ids
		}
		ids, seq = append(ids, msg.Header.Get(jetstream.MsgIDHeader)), msg.Sequence-1
	}
}

// variant is a batch like no other.
func variant(t testing.TB, name string, i int) []byte {
	return append(read(t, name), strings.Repeat(" ", i)...)
}

// TestI6_TheSpoolHoldsWhileJetStreamIsAway has batches answered with no remote
// JetStream there, restarts the receiver, and looks whether all of them get there
// once it is, those that can't be understood and repeated ones included.
func TestI6_TheSpoolHoldsWhileJetStreamIsAway(t *testing.T) {
	t.Parallel()
	far := newRemote(t)
	url := far.start()
	far.stop()
	dir := t.TempDir()
	var want []string
	for round := range 2 {
		in, _, stop := spooling(t, dir, url, away{})
		for i := range 3 {
			body := variant(t, "agent.json", 3*round+i)
			mustPost(t, in, "demo", body)
			mustPost(t, in, "demo", body)
			want = append(want, batchID("demo", body)+"-0")
		}
		mustPost(t, in, "other", read(t, "bad-events.json"))
		if got := in.stream.Load(); got == nil || ask(in, http.MethodGet, "/quarantine/demo").Code != http.StatusServiceUnavailable {
			t.Error("the quarantine must say that it can't be listed: it is where JetStream is")
		}
		stop()
	}
	want = append(want, batchID("other", read(t, "bad-events.json"))+"-0")
	slices.Sort(want)
	far.start()
	in, _, _ := spooling(t, dir, url, away{})
	eventually(t, "the spool is empty", func() bool { return backlog(t, in) == 0 })
	if got := far.held(url, streamName); !slices.Equal(got, want) {
		t.Errorf("the remote stream holds %q, want %q", got, want)
	}
	eventually(t, "the quarantine is there", func() bool { return len(listed(t, in, "/quarantine/other")) == 3 })
}

// TestI6_JetStreamGoesAwayInTheMidst stops and starts the remote server while
// batches are forwarded, and looks for each of them there.
func TestI6_JetStreamGoesAwayInTheMidst(t *testing.T) {
	t.Parallel()
	far := newRemote(t)
	url := far.start()
	in, _, _ := spooling(t, t.TempDir(), url, away{})
	var want []string
	for i := range 40 {
		body := variant(t, "agent.json", i)
		mustPost(t, in, "demo", body)
		want = append(want, batchID("demo", body)+"-0")
		switch i {
		case 10, 25:
			eventually(t, "some are forwarded", func() bool { return testutil.ToFloat64(in.metrics.forwarded) > float64(i/2) })
			far.stop()
		case 18, 33:
			far.start()
		}
	}
	slices.Sort(want)
	eventually(t, "the spool is empty", func() bool { return backlog(t, in) == 0 })
	if got := far.held(url, streamName); !slices.Equal(got, want) {
		t.Errorf("the remote stream holds %d: %q, want %d", len(got), got, len(want))
	}
}

// What waited where there was no remote server yet goes to it once there is one,
// and what waits in a spool goes to ClickHouse once there is none any more.
func TestASpoolMayComeAndGo(t *testing.T) {
	t.Parallel()
	store, _ := engine(t, t.TempDir(), "127.0.0.1:0")
	conn := open(t, store)
	if err := schema.Migrate(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	far := newRemote(t)
	url := far.start()
	dir := t.TempDir()
	in, _, stop := start(t, dir, away{})
	mustPost(t, in, "demo", read(t, "agent.json"))
	eventually(t, "the writer's consumer is there", func() bool {
		_, err := in.stream.Load().js.CreateOrUpdateConsumer(t.Context(), streamName, jetstream.ConsumerConfig{Durable: writerName, AckPolicy: jetstream.AckExplicitPolicy})
		return err == nil
	})
	stop()
	in, _, stop = spooling(t, dir, url, away{})
	eventually(t, "the spool is empty", func() bool { return backlog(t, in) == 0 })
	if got := far.held(url, streamName); len(got) != 1 {
		t.Errorf("the remote stream holds %q", got)
	}
	far.stop()
	mustPost(t, in, "demo", variant(t, "recorded.json", 1))
	stop()
	start(t, dir, store)
	eventually(t, "its events are in ClickHouse", func() bool {
		return count(t, conn, `SELECT count() FROM tipstaff.audit_events FINAL`) == uint64(eventsIn(t, "recorded.json"))
	})
}

func TestAJetStreamThatTakesOnlySmallMessagesIsNamed(t *testing.T) {
	t.Parallel()
	far := newRemote(t)
	far.options.MaxPayload = 1 << 20
	in, log, _ := spooling(t, t.TempDir(), far.start(), away{})
	mustPost(t, in, "demo", read(t, "agent.json"))
	eventually(t, "the log says what to do", func() bool { return strings.Contains(log.String(), "set max_payload: 8MB") })
	if got := backlog(t, in); got != 1 {
		t.Errorf("%d messages wait in the spool, want 1", got)
	}
}

func TestAFullRemoteStreamLeavesItInTheSpool(t *testing.T) {
	t.Parallel()
	far := newRemote(t)
	url := far.start()
	sl, _ := newLog(t)
	full, err := openStream(t.Context(), JetStream{URL: url}, sl)
	if err != nil {
		t.Fatal(err)
	}
	defer full.close()
	log, _ := newLog(t)
	in, err := New(Config{Clusters: []string{"demo"}, JetStream: JetStream{Dir: t.TempDir(), URL: url}}, nil, masker(t), away{}, log)
	if err != nil {
		t.Fatal(err)
	}
	running(t, in.Run)
	eventually(t, "the spool is ready", func() bool { return in.Ready() == nil })
	eventually(t, "the remote stream is made", func() bool { return in.trail.Load() != nil })
	limit := func(bytes int64) {
		c, err := full.js.Stream(t.Context(), streamName)
		if err != nil {
			t.Fatal(err)
		}
		cfg := c.CachedInfo().Config
		cfg.MaxBytes = bytes
		if _, err := full.js.UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	limit(1 << 10)
	mustPost(t, in, "demo", read(t, "recorded.json"))
	eventually(t, "it was refused", func() bool { return testutil.ToFloat64(in.metrics.forwardFailures) > 0 })
	if got := backlog(t, in); got != 1 {
		t.Errorf("%d messages wait in the spool, want 1", got)
	}
	limit(256 << 20)
	eventually(t, "the spool is empty", func() bool { return backlog(t, in) == 0 })
}

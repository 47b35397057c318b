package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/recording"
	"github.com/tipstaff-dev/tipstaff/schema"
)

func begun() *recording.Piece {
	return &recording.Piece{Session: recording.Session{
		ID: "s-1", Started: time.Date(2026, 11, 24, 6, 0, 0, 0, time.UTC), Verb: "exec", Namespace: "a", Pod: "p",
		Agent: v1alpha1.Agent{User: "agent:demo:bot", Issuer: "demo", Run: "r1"},
	}}
}

func with(frames ...recording.Frame) *recording.Piece {
	p := begun()
	p.Frames = frames
	return p
}

func encoded(t *testing.T, p *recording.Piece) []byte {
	t.Helper()
	body, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestReceiveAnswersRecordings(t *testing.T) {
	t.Parallel()
	in, _, _ := start(t, t.TempDir(), away{})
	good := encoded(t, begun())
	for name, row := range map[string]struct {
		path string
		body []byte
		want int
	}{
		"a piece is stored":               {"/sessions/demo", good, http.StatusOK},
		"a cluster that isn't configured": {"/sessions/nobody", good, http.StatusNotFound},
		"a piece cut in the middle":       {"/sessions/demo", good[:len(good)/2], http.StatusBadRequest},
		"a batch of events":               {"/sessions/demo", read(t, "recorded.json"), http.StatusBadRequest},
		"too much":                        {"/sessions/demo", bytes.Repeat([]byte(" "), maxBodyBytes+1), http.StatusRequestEntityTooLarge},
		"a piece among events":            {"/audit/demo/proxy", good, http.StatusBadRequest},
	} {
		if w := post(in, row.path, row.body); w.Code != row.want {
			t.Errorf("%s: got %d %s, want %d", name, w.Code, w.Body, row.want)
		}
	}
	if _, err := in.RecordsOf("nobody"); err == nil {
		t.Error("records of a cluster that isn't configured are taken")
	}
	if got := backlog(t, in); got != 1 {
		t.Errorf("%d messages wait, want 1", got)
	}
}

// TestI6_ARecordingIsThereOnceAndWhole sends each piece twice, one of them past
// a restart and with ClickHouse away until then.
func TestI6_ARecordingIsThereOnceAndWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	in, _, stop := start(t, dir, away{})
	records, err := in.RecordsOf("demo")
	if err != nil {
		t.Fatal(err)
	}
	first := with(recording.Frame{Seq: 1, At: time.Second, Stream: recording.Input, Data: []byte("ls\n")})
	for range 2 {
		if err := errors.Join(records.StoreSession(t.Context(), begun()), records.StoreSession(t.Context(), first)); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if err := records.StoreSession(t.Context(), first); err == nil {
		t.Error("a piece is stored by a receiver that has stopped")
	}

	store, _ := engine(t, t.TempDir(), "127.0.0.1:0")
	in, _, _ = start(t, dir, store)
	rest := with(
		recording.Frame{Seq: 2, At: 2 * time.Second, Stream: recording.Output, Data: []byte{0, 0xff, '\n'}},
		recording.Frame{Seq: 3, At: 3 * time.Second, Stream: recording.End},
	)
	for _, p := range []*recording.Piece{first, rest, rest} {
		if w := post(in, "/sessions/demo", encoded(t, p)); w.Code != http.StatusOK {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	conn := open(t, store)
	eventually(t, "the recording is in ClickHouse", func() bool { return count(t, conn, `SELECT count() FROM tipstaff.session_frames FINAL`) == 3 })
	sessions, err := schema.Sessions(t.Context(), conn, "r1", "", "")
	if err != nil || len(sessions) != 1 || !sessions[0].Ended || sessions[0].Output != 3 {
		t.Fatalf("%+v, %v", sessions, err)
	}
	frames, err := schema.Frames(t.Context(), conn, "demo", "s-1")
	if want := append(first.Frames, rest.Frames...); err != nil || len(frames) != 3 || !reflect.DeepEqual(frames[:2], want[:2]) {
		t.Errorf("got %+v, %v", frames, err)
	}
}

// A session whose piece is refused where it is read, later, would have run unseen.
func TestAPieceIsRefusedBeforeItIsStoredInTheSameProcessToo(t *testing.T) {
	t.Parallel()
	in, _, _ := start(t, t.TempDir(), away{})
	records, err := in.RecordsOf("demo")
	if err != nil {
		t.Fatal(err)
	}
	many, grows := begun(), begun()
	many.Session.Command = make([]string, 1025)
	grows.Session.Container = strings.Repeat("\xff", 4<<10) // each byte is three when it is read again
	for name, p := range map[string]*recording.Piece{"a command of too many arguments": many, "a text that is no UTF-8": grows} {
		if err := records.StoreSession(t.Context(), p); !errors.Is(err, recording.ErrRefused) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if got := backlog(t, in); got != 0 {
		t.Errorf("%d messages wait, want none", got)
	}
}

func TestEventsOfTheProxysOwnSaySo(t *testing.T) {
	t.Parallel()
	store, _ := engine(t, t.TempDir(), "127.0.0.1:0")
	in, _, _ := start(t, t.TempDir(), store)
	told := 0
	in.OnOutcome(func(Outcome) bool { told++; return true })
	records, err := in.RecordsOf("demo")
	if err != nil {
		t.Fatal(err)
	}
	agents := read(t, "agent.json")
	if err := records.StoreEvents(context.Background(), agents); err != nil {
		t.Fatal(err)
	}
	if told > 0 {
		t.Error("the proxy's word was taken for how the API server answered")
	}
	if w := post(in, "/audit/demo/proxy", agents); w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	mustPost(t, in, "demo", agents)
	conn := open(t, store)
	eventually(t, "the tables are there", func() bool { return schema.Check(t.Context(), conn) == nil })
	n := uint64(eventsIn(t, "agent.json"))
	eventually(t, "both are in ClickHouse", func() bool {
		return count(t, conn, `SELECT count() FROM tipstaff.audit_events FINAL WHERE source = 'proxy'`) == n &&
			count(t, conn, `SELECT count() FROM tipstaff.audit_events FINAL WHERE source = ''`) == n
	})
	if err := records.StoreEvents(context.Background(), []byte("{")); !errors.Is(err, recording.ErrRefused) || strings.Contains(err.Error(), "{") {
		t.Errorf("no list: got %v", err)
	}
}

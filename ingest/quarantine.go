package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// storedSubject is where messages are that ClickHouse refused, or that can't be
// read (any more).
const storedSubject = quarantineSubject + "stored"

// maxListed and maxListedBytes bound one answer; an event more may go over.
const (
	maxListed      = 1000
	maxListedBytes = 8 << 20
)

// QuarantineEntry is something that was received, but isn't in the audit trail.
type QuarantineEntry struct {
	// Seq is its number in the quarantine.
	Seq    uint64    `json:"seq"`
	Time   time.Time `json:"time"`
	Reason string    `json:"reason"`
	// Events is how many events of a batch wait here, and may be replayed; 0 of
	// what can't be: an event that couldn't be understood.
	Events int `json:"events,omitempty"`
	// Batch to Bytes tell of such an event where it came from: its batch's id and
	// its place in it, and its SHA-256 and length as it came.
	Batch  string `json:"batch,omitempty"`
	Index  int    `json:"index,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
	Bytes  int    `json:"bytes,omitempty"`
	// Event is the event with every text masked, if it could be read at all.
	Event json.RawMessage `json:"event,omitempty"`
}

// QuarantinePage is a part of the list.
type QuarantinePage struct {
	Entries []QuarantineEntry `json:"entries"`
	// Next is what to ask after next; 0 at the end.
	Next uint64 `json:"next,omitempty"`
}

// listQuarantine answers GET /quarantine/<cluster> with a page of what comes after
// ?after=SEQ, the oldest first.
func (in *Ingest) listQuarantine(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	if err != nil && r.URL.Query().Has("after") {
		http.Error(w, "after must be a number", http.StatusBadRequest)
		return
	}
	page := QuarantinePage{Entries: []QuarantineEntry{}}
	if !in.withQuarantine(w, r, func(ctx context.Context, _ *stream, q jetstream.Stream, cluster string) error {
		for began, size := time.Now(), 0; len(page.Entries) < maxListed && size < maxListedBytes && time.Since(began) < publishTimeout/2; {
			msg, err := q.GetMsg(ctx, after+1, jetstream.WithGetMsgSubject(quarantineSubject+"*"))
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				page.Next = 0
				return nil
			}
			if err != nil {
				return err
			}
			after = msg.Sequence
			page.Next = after
			if e, ok := entryOf(msg, cluster); ok {
				page.Entries = append(page.Entries, e)
				size += len(e.Event)
			}
		}
		return nil
	}) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(page) // a client that is gone needs no answer
}

// entryOf reads a message of the quarantine. False means that it is another
// cluster's.
func entryOf(msg *jetstream.RawStreamMsg, cluster string) (QuarantineEntry, bool) {
	if msg.Header.Get(headerCluster) != cluster {
		return QuarantineEntry{}, false
	}
	e := QuarantineEntry{Seq: msg.Sequence, Time: msg.Time.UTC(), Reason: msg.Header.Get(headerReason)}
	if replayable(msg) {
		e.Events, _ = strconv.Atoi(msg.Header.Get(headerEvents)) // a recording's piece has none
		e.Events = max(e.Events, 1)
		return e, true
	}
	var q quarantined
	if json.Unmarshal(msg.Data, &q) == nil {
		e.Batch, e.Index, e.SHA256, e.Bytes, e.Event = q.Batch, q.Index, q.SHA256, q.Bytes, json.RawMessage(q.Event)
	}
	return e, true
}

// replayable reports whether a message is a batch, whatever a cluster is called.
func replayable(msg *jetstream.RawStreamMsg) bool {
	return msg.Subject == storedSubject && msg.Header.Get(headerFormat) != ""
}

// replayQuarantine answers POST /quarantine/<cluster>/<seq>: the message goes to
// the writer again, and out of the quarantine. 409 says that it is an event that
// can't be replayed: its texts were masked when it was put aside.
func (in *Ingest) replayQuarantine(w http.ResponseWriter, r *http.Request) {
	seq, err := strconv.ParseUint(r.PathValue("seq"), 10, 64)
	if err != nil {
		http.Error(w, "seq must be a number", http.StatusBadRequest)
		return
	}
	in.withQuarantine(w, r, func(ctx context.Context, s *stream, q jetstream.Stream, cluster string) error {
		msg, err := q.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && msg.Header.Get(headerCluster) != cluster {
			http.Error(w, "there is no such entry of this cluster", http.StatusNotFound)
			return nil
		}
		if err != nil {
			return err
		}
		if !replayable(msg) {
			http.Error(w, "its texts were masked when it was put aside, so it can't be replayed: send the API server's log again with tipstaff ingest", http.StatusConflict)
			return nil
		}
		subject := subjectPrefix
		if msg.Header.Get(headerFormat) == formatSession {
			subject = sessionSubject
		}
		again := copyTo(subject+cluster, msg.Header, msg.Data)
		// Stored first: asked for twice, or stopped between, it comes twice, and its
		// rows replace themselves.
		if err := s.publish(ctx, again, fmt.Sprintf("replay-%d-%d", seq, msg.Time.UnixNano())); err != nil {
			return err
		}
		if err := q.DeleteMsg(ctx, seq); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return err
		}
		in.log.InfoContext(ctx, "quarantined batch replayed", "cluster", cluster, "seq", seq)
		return nil
	})
}

// copyTo is the message that puts a batch elsewhere.
func copyTo(subject string, header nats.Header, data []byte) *nats.Msg {
	msg := nats.NewMsg(subject)
	msg.Data = data
	for _, name := range []string{headerCluster, headerFormat, headerEvents, headerSource} {
		msg.Header.Set(name, header.Get(name))
	}
	return msg
}

// withQuarantine does what is asked of the quarantine, and reports whether nothing
// has been answered yet.
func (in *Ingest) withQuarantine(w http.ResponseWriter, r *http.Request, do func(ctx context.Context, s *stream, q jetstream.Stream, cluster string) error) bool {
	cluster, leave := in.enter(w, r)
	if leave == nil {
		return false
	}
	defer leave()
	ctx, cancel := context.WithTimeout(r.Context(), publishTimeout)
	defer cancel()
	err := errNotReady
	if s := in.trail.Load(); s != nil {
		var q jetstream.Stream
		if q, err = s.js.Stream(ctx, quarantineName); err == nil {
			err = do(ctx, s, q, cluster)
		}
	}
	if err != nil {
		in.log.WarnContext(ctx, "the quarantine can't be read or replayed now", "cluster", cluster, "error", err)
		http.Error(w, "this can't be done now", http.StatusServiceUnavailable)
	}
	return err == nil
}

package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// storedSubject is where messages are that ClickHouse refused, or that can't be
// read (any more).
const storedSubject = quarantineSubject + "stored"

// maxListed bounds one answer.
const maxListed = 1000

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

// listQuarantine answers GET /quarantine/<cluster> with a JSON list, the oldest
// first, of what comes after ?after=SEQ.
func (in *Ingest) listQuarantine(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	if err != nil && r.URL.Query().Has("after") {
		http.Error(w, "after must be a number", http.StatusBadRequest)
		return
	}
	in.withQuarantine(w, r, func(ctx context.Context, s jetstream.Stream, cluster string) error {
		entries := []QuarantineEntry{}
		for seq := after + 1; len(entries) < maxListed; {
			msg, err := s.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(quarantineSubject+"*"))
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				break
			}
			if err != nil {
				return err
			}
			if e, ok := entryOf(msg, cluster); ok {
				entries = append(entries, e)
			}
			seq = msg.Sequence + 1
		}
		w.Header().Set("Content-Type", "application/json")
		return json.NewEncoder(w).Encode(entries)
	})
}

// entryOf reads a message of the quarantine. False means that it is another
// cluster's.
func entryOf(msg *jetstream.RawStreamMsg, cluster string) (QuarantineEntry, bool) {
	if msg.Header.Get(headerCluster) != cluster {
		return QuarantineEntry{}, false
	}
	e := QuarantineEntry{Seq: msg.Sequence, Time: msg.Time.UTC(), Reason: msg.Header.Get(headerReason)}
	if msg.Subject == storedSubject {
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

// replayQuarantine answers POST /quarantine/<cluster>/<seq>: the message goes to
// the writer again, and out of the quarantine. 409 says that it is an event that
// can't be replayed: its texts were masked when it was put aside.
func (in *Ingest) replayQuarantine(w http.ResponseWriter, r *http.Request) {
	seq, err := strconv.ParseUint(r.PathValue("seq"), 10, 64)
	if err != nil {
		http.Error(w, "seq must be a number", http.StatusBadRequest)
		return
	}
	in.withQuarantine(w, r, func(ctx context.Context, s jetstream.Stream, cluster string) error {
		msg, err := s.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && msg.Header.Get(headerCluster) != cluster {
			http.Error(w, "there is no such entry of this cluster", http.StatusNotFound)
			return nil
		}
		if err != nil {
			return err
		}
		if msg.Subject != storedSubject {
			http.Error(w, "its texts were masked when it was put aside, so it can't be replayed: send the API server's log again with tipstaff ingest", http.StatusConflict)
			return nil
		}
		again := nats.NewMsg(subjectPrefix + cluster)
		if msg.Header.Get(headerFormat) == formatSession {
			again.Subject = sessionSubject + cluster
		}
		again.Data = msg.Data
		for _, name := range []string{headerCluster, headerFormat, headerEvents, headerSource} {
			again.Header.Set(name, msg.Header.Get(name))
		}
		// Stored first: asked for twice, or stopped between, it comes twice, and its
		// rows replace themselves.
		if err := in.stream.Load().publish(ctx, again, fmt.Sprintf("replay-%d-%d", seq, msg.Time.UnixNano())); err != nil {
			return err
		}
		if err := s.DeleteMsg(ctx, seq); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return err
		}
		in.log.InfoContext(ctx, "quarantined batch replayed", "cluster", cluster, "seq", seq)
		return nil
	})
}

func (in *Ingest) withQuarantine(w http.ResponseWriter, r *http.Request, do func(ctx context.Context, s jetstream.Stream, cluster string) error) {
	cluster := r.PathValue("cluster")
	if !slices.Contains(in.cfg.Clusters, cluster) {
		http.Error(w, "this cluster is not configured", http.StatusNotFound)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), publishTimeout)
	defer cancel()
	err := errNotReady
	if s := in.stream.Load(); s != nil {
		var q jetstream.Stream
		if q, err = s.js.Stream(ctx, quarantineName); err == nil {
			err = do(ctx, q, cluster)
		}
	}
	if err != nil {
		in.log.WarnContext(ctx, "the quarantine can't be read or replayed now", "cluster", cluster, "error", err)
		http.Error(w, "this can't be done now", http.StatusServiceUnavailable)
	}
}

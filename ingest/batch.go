package ingest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/klauspost/compress/zstd"

	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
	"github.com/tipstaff-dev/tipstaff/mask"
)

// A stored message is an EventList of masked events, compressed with zstd.
// Its headers say whose it is and how to read it.
const (
	headerCluster = "Tipstaff-Cluster"
	headerFormat  = "Tipstaff-Format"
	headerEvents  = "Tipstaff-Events"
	headerReason  = "Tipstaff-Reason"
	// headerSource is the source of a batch's events: empty is the API server.
	headerSource = "Tipstaff-Source"
	formatV1     = "events/v1+zstd"
)

const (
	// maxChunkBytes bounds the masked events in one message before compression,
	// and so what the writer holds of one. An ordinary batch is one message.
	maxChunkBytes = 4 << 20
	// maxEventBytes bounds one event in a message, compressed: with its headers it
	// fits into what any JetStream takes (minPayload).
	maxEventBytes = minPayload - 64<<10
	// maxMessageBytes bounds what a message decompresses to: one event can be as
	// large as a body, and marks can be longer than what they stand for.
	maxMessageBytes = 4 * maxBodyBytes
)

// Both are safe for concurrent use through EncodeAll and DecodeAll.
var (
	compressor, _   = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2))
	decompressor, _ = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxMessageBytes), zstd.WithDecoderConcurrency(2))
)

// quarantined is an event that could not be understood.
type quarantined struct {
	Cluster string `json:"cluster"`
	// Batch is the batch's id, Index the event's place in it.
	Batch string `json:"batch"`
	Index int    `json:"index"`
	// Reason says why; it quotes nothing of the event.
	Reason string `json:"reason"`
	// SHA256 and Bytes are of the event as it came.
	SHA256 string `json:"sha256"`
	Bytes  int    `json:"bytes"`
	// Event is the event with every text replaced by a mark, if it could be read.
	Event jsontext.Value `json:"event,omitempty"`
	Time  time.Time      `json:"time"`
}

// prepared is a received batch, masked and ready to be stored.
type prepared struct {
	id     string
	chunks []chunk
	bad    []quarantined
	events int
	// outcomes are what its events say of approved requests.
	outcomes []Outcome
}

// chunk is one message.
type chunk struct {
	events int
	data   []byte
}

// batchID is the same for the same bytes from the same cluster: the API
// server's retry of a batch.
func batchID(cluster string, body []byte) string {
	h := sha256.New()
	h.Write([]byte(cluster))
	h.Write([]byte{0})
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

// prepare splits and masks a received body. Its error is a *ParseError.
func prepare(m *mask.Masker, agents *clusteragents.Config, cluster string, body []byte, now time.Time) (*prepared, error) {
	raws, err := split(body)
	if err != nil {
		return nil, err
	}
	p := &prepared{id: batchID(cluster, body)}
	var pending []jsontext.Value
	size := 0
	flush := func() {
		if len(pending) > 0 {
			p.chunks = append(p.chunks, chunk{events: len(pending), data: compressor.EncodeAll(join(pending), nil)})
			pending, size = nil, 0
		}
	}
	for i, raw := range raws {
		masked, ev, err := maskRaw(m, agents, raw)
		if err != nil {
			sum := sha256.Sum256(raw)
			masked := shape(m.Scope(""), raw)
			if !fits(masked) {
				masked = nil
			}
			p.bad = append(p.bad, quarantined{
				Cluster: cluster, Batch: p.id, Index: i, Reason: err.Error(), Bytes: len(raw),
				SHA256: hex.EncodeToString(sum[:]), Event: masked, Time: now,
			})
			continue
		}
		if size += len(masked); size > maxChunkBytes {
			flush()
			size = len(masked)
		}
		pending = append(pending, masked)
		p.events++
		if o, ok := outcomeOf(ev); ok {
			p.outcomes = append(p.outcomes, o)
		}
	}
	flush()
	return p, nil
}

// maskRaw reads one event and gives it masked, written and read.
func maskRaw(m *mask.Masker, agents *clusteragents.Config, raw jsontext.Value) (jsontext.Value, *event, error) {
	ev, err := decode(raw)
	if err != nil {
		return nil, nil, err
	}
	maskEvent(m, agents, ev)
	out, err := encode(ev)
	if err == nil && !fits(out) {
		ev.leaveOutBodies()
		out, err = encode(ev)
	}
	switch {
	case err != nil:
		return nil, nil, errors.New("the event can't be written again")
	case !fits(out):
		return nil, nil, errors.New("the event is too large even without its objects")
	}
	return out, ev, nil
}

func encode(ev *event) (jsontext.Value, error) {
	return json.Marshal(ev, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
}

// fits reports whether a message can hold it, alone if need be.
func fits(masked jsontext.Value) bool {
	return len(masked) <= maxChunkBytes || len(compressor.EncodeAll(masked, nil)) <= maxEventBytes
}

// unpack reads a stored message's events.
func unpack(format string, data []byte) ([]*event, error) {
	if format != formatV1 {
		return nil, fmt.Errorf("format %q is unknown", format)
	}
	body, err := decompressor.DecodeAll(data, nil)
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	raws, err := split(body)
	if err != nil {
		return nil, err
	}
	events := make([]*event, 0, len(raws))
	for i, raw := range raws {
		ev, err := decode(bytes.Clone(raw))
		if err != nil {
			return nil, fmt.Errorf("event %d: %w", i, err)
		}
		events = append(events, ev)
	}
	return events, nil
}

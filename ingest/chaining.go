package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tipstaff-dev/tipstaff/ingest/chain"
	"github.com/tipstaff-dev/tipstaff/schema"
)

const (
	chainName    = "TIPSTAFF_CHAIN"
	chainSubject = "tipstaff.chain."
	// maxHeads bounds the heads of one cluster's log that JetStream keeps. The last
	// of them says where the log goes on.
	maxHeads = 10_000
	// maxTries bounds how often another replica may be faster.
	maxTries = 20
)

// chainer adds what is stored to the log of its cluster. The log's head is in
// JetStream, where it is replaced only by who knows it, so that replicas extend one
// log in turn.
type chainer struct {
	stream *stream
	key    *chain.Key
	file   string
	log    *slog.Logger
	// heads are as this replica last knew them; seq is their number in the stream.
	heads map[string]knownHead
}

type knownHead struct {
	*chain.Head
	seq uint64
}

// add logs events, which are in ClickHouse, and gives the clusters whose could not
// be, with why. Each cluster's are a batch. It may be called again for the same
// events: their rows are then in two leaves.
func (c *chainer) add(ctx context.Context, conn driver.Conn, events []schema.Event) map[string]error {
	clusters := map[string][]schema.Event{}
	for _, e := range events {
		clusters[e.Cluster] = append(clusters[e.Cluster], e)
	}
	bad := map[string]error{}
	for cluster, own := range clusters {
		if err := c.addTo(ctx, conn, cluster, own); err != nil {
			delete(c.heads, cluster) // loaded again, a leaf that ClickHouse misses is found
			bad[cluster] = err
		}
	}
	return bad
}

func (c *chainer) addTo(ctx context.Context, conn driver.Conn, cluster string, events []schema.Event) error {
	batch, err := chain.NewBatch(cluster, events)
	if err != nil {
		return err
	}
	// What says which rows it has is there before the leaf is: a leaf without
	// them would tell of rows that nobody can name.
	if err := schema.InsertChainRows(ctx, conn, batch.Rows); err != nil {
		return err
	}
	leaf, err := c.extend(ctx, conn, batch)
	if err != nil {
		return err
	}
	if err := schema.InsertChainBatches(ctx, conn, []schema.ChainBatch{*leaf}); err != nil {
		return err
	}
	c.keep(ctx, leaf)
	return nil
}

// extend puts a batch's leaf into JetStream.
func (c *chainer) extend(ctx context.Context, conn driver.Conn, batch *chain.Batch) (*schema.ChainBatch, error) {
	for range maxTries {
		at, known := c.heads[batch.Cluster]
		if !known {
			var err error
			if at, err = c.load(ctx, conn, batch.Cluster); err != nil {
				return nil, err
			}
		}
		next, err := chain.Extend(at.Head, batch, time.Now(), c.key)
		if err != nil {
			return nil, fmt.Errorf("extend the log: %w", err)
		}
		data, err := json.Marshal(next)
		if err != nil {
			return nil, fmt.Errorf("write the log's head: %w", err)
		}
		delete(c.heads, batch.Cluster)
		msg := &nats.Msg{Subject: chainSubject + batch.Cluster, Data: data}
		ack, err := c.stream.js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequencePerSubject(at.seq), jetstream.WithRetryAttempts(0))
		var refused *jetstream.APIError
		switch {
		case err == nil:
			c.heads[batch.Cluster] = knownHead{next, ack.Sequence}
			return &next.Last, nil
		case !errors.As(err, &refused) || refused.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence:
			return nil, fmt.Errorf("store the log's head: %w", err)
		}
	}
	return nil, fmt.Errorf("other replicas extended the log of cluster %s %d times meanwhile", batch.Cluster, maxTries)
}

// load gives the head of a cluster's log. Leaves that JetStream has and ClickHouse
// hasn't are written there: their replica ended between the two. A JetStream that
// has none goes on where ClickHouse is.
func (c *chainer) load(ctx context.Context, conn driver.Conn, cluster string) (knownHead, error) {
	held, err := c.stream.js.Stream(ctx, chainName)
	if err != nil {
		return knownHead{}, fmt.Errorf("read the log's head: %w", err)
	}
	msg, err := held.GetLastMsgForSubject(ctx, chainSubject+cluster)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return c.fromStore(ctx, conn, cluster)
	}
	if err != nil {
		return knownHead{}, fmt.Errorf("read the log's head: %w", err)
	}
	head := &chain.Head{}
	if err := json.Unmarshal(msg.Data, head); err != nil {
		return knownHead{}, fmt.Errorf("read the log's head: %w", err)
	}
	return knownHead{head, msg.Sequence}, c.repair(ctx, conn, held, head)
}

func (c *chainer) fromStore(ctx context.Context, conn driver.Conn, cluster string) (knownHead, error) {
	var leaves []schema.ChainBatch
	if err := conn.Select(ctx, &leaves, `SELECT cluster, leaf, batch, rows, first, last, stored, root, listed, checkpoint FROM tipstaff.chain_batches FINAL WHERE cluster = ? ORDER BY leaf`, cluster); err != nil {
		return knownHead{}, fmt.Errorf("read the log of cluster %s: %w", cluster, err)
	}
	head, err := chain.Rebuild(leaves, c.key.Keys)
	if err != nil {
		return knownHead{}, fmt.Errorf("JetStream has no head of the log of cluster %s, and what ClickHouse has is not what was signed: run tipstaff verify: %w", cluster, err)
	}
	return knownHead{head, 0}, nil
}

// repair writes the leaves that ClickHouse should have and hasn't, as far back as
// JetStream has them.
func (c *chainer) repair(ctx context.Context, conn driver.Conn, held jetstream.Stream, head *chain.Head) error {
	var have []struct {
		Leaf uint64 `ch:"leaf"`
	}
	cluster := head.Last.Cluster
	from := uint64(0)
	if head.Last.Leaf > maxHeads {
		from = head.Last.Leaf - maxHeads
	}
	if err := conn.Select(ctx, &have, `SELECT DISTINCT leaf FROM tipstaff.chain_batches WHERE cluster = ? AND leaf >= ?`, cluster, from); err != nil {
		return fmt.Errorf("read the log of cluster %s: %w", cluster, err)
	}
	if uint64(len(have)) > head.Last.Leaf-from {
		return nil
	}
	there := make(map[uint64]bool, len(have))
	for _, h := range have {
		there[h.Leaf] = true
	}
	var missing []schema.ChainBatch
	for seq := uint64(1); ; {
		msg, err := held.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(chainSubject+cluster))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the log's heads: %w", err)
		}
		one := &chain.Head{}
		if err := json.Unmarshal(msg.Data, one); err != nil {
			return fmt.Errorf("read the log's heads: %w", err)
		}
		if !there[one.Last.Leaf] {
			missing = append(missing, one.Last)
		}
		seq = msg.Sequence + 1
	}
	return schema.InsertChainBatches(ctx, conn, missing)
}

// keptCheckpoint is a line of the file of checkpoints.
type keptCheckpoint struct {
	Time       time.Time `json:"time"`
	Cluster    string    `json:"cluster"`
	Checkpoint string    `json:"checkpoint"`
}

// keep appends a checkpoint to the file, if there is one. What can't be written
// there is said: it holds nothing up.
func (c *chainer) keep(ctx context.Context, leaf *schema.ChainBatch) {
	if c.file == "" {
		return
	}
	line, err := json.Marshal(keptCheckpoint{leaf.Stored, leaf.Cluster, leaf.Checkpoint})
	if err == nil {
		err = appendLine(c.file, line)
	}
	if err != nil {
		c.log.ErrorContext(ctx, "a checkpoint of the log can't be kept", "file", c.file, "error", err)
	}
}

func appendLine(name string, line []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		_ = f.Close() // the write's error says more
		return err
	}
	return f.Close()
}

// checkpoint answers GET /checkpoint/<cluster> with the log's last signed head, as
// JetStream has it.
func (in *Ingest) checkpoint(w http.ResponseWriter, r *http.Request) {
	cluster, leave := in.enter(w, r)
	if leave == nil {
		return
	}
	defer leave()
	ctx, cancel := context.WithTimeout(r.Context(), publishTimeout)
	defer cancel()
	s := in.trail.Load()
	if s == nil {
		http.Error(w, "this can't be done now", http.StatusServiceUnavailable)
		return
	}
	held, err := s.js.Stream(ctx, chainName)
	var msg *jetstream.RawStreamMsg
	if err == nil {
		msg, err = held.GetLastMsgForSubject(ctx, chainSubject+cluster)
	}
	head := &chain.Head{}
	if err == nil {
		err = json.Unmarshal(msg.Data, head)
	}
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		http.Error(w, "there is no log of this cluster: nothing was stored yet, or ingest.chain is not configured", http.StatusNotFound)
	case err != nil:
		in.log.WarnContext(ctx, "the log's head can't be read now", "cluster", cluster, "error", err)
		http.Error(w, "this can't be done now", http.StatusServiceUnavailable)
	default:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(head.Last.Checkpoint)) // a client that is gone needs no answer
	}
}

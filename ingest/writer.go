package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
	"github.com/tipstaff-dev/tipstaff/schema"
)

const (
	// maxRows and maxInFlight bound one insert; a message more may go over.
	maxRows       = 20_000
	fetchWait     = 5 * time.Second
	insertTimeout = 50 * time.Second // within ackWait
	maxBackoff    = 30 * time.Second
	ackTimeout    = 5 * time.Second
	// patience is how often a message that ClickHouse refuses while it takes
	// others is tried before it goes to quarantine.
	patience = 5
)

// writer moves the stream's messages to ClickHouse.
type writer struct {
	stream  *stream
	target  Store
	agents  *clusteragents.Config
	log     *slog.Logger
	metrics *metrics
	chain   *chainer // nil where nothing is logged
	conn    driver.Conn
}

// delivery is a message with its rows.
type delivery struct {
	msg jetstream.Msg
	rows
}

// rows are what is inserted at once.
type rows struct {
	events   []schema.Event
	sessions []schema.Session
	frames   []schema.SessionFrame
}

func (r *rows) add(other rows) {
	r.events = append(r.events, other.events...)
	r.sessions = append(r.sessions, other.sessions...)
	r.frames = append(r.frames, other.frames...)
}

func (r *rows) count() int { return len(r.events) + len(r.sessions) + len(r.frames) }

func (w *writer) run(ctx context.Context) error {
	defer func() {
		if w.conn != nil {
			_ = w.conn.Close() // what wasn't inserted is not acknowledged either
		}
	}()
	again(ctx, func(ctx context.Context) bool {
		err := w.open(ctx)
		if err == nil {
			err = w.drain(ctx)
		}
		if ctx.Err() == nil {
			w.log.WarnContext(ctx, "audit events wait in the stream", "error", err)
		}
		return false
	})
	return nil
}

// open connects and makes sure that the schema is this version's. Where there
// is none at all, it is made: a fresh ClickHouse needs no further step.
func (w *writer) open(ctx context.Context) error {
	if w.conn != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, insertTimeout)
	defer cancel()
	conn, err := w.target.Open(ctx)
	if err != nil {
		return err
	}
	err = schema.Check(ctx, conn)
	if errors.Is(err, schema.ErrNoSchema) {
		w.log.InfoContext(ctx, "making the schema in an empty ClickHouse")
		err = schema.Migrate(ctx, conn)
	}
	if err != nil {
		_ = conn.Close() // nothing was written
		return err
	}
	w.conn = conn
	return nil
}

// drain fetches and writes until something fails.
func (w *writer) drain(ctx context.Context) error {
	c, err := w.stream.consumer(ctx, streamName, writerName)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		batch, err := w.fetch(ctx, c)
		if err != nil {
			return err
		}
		if err := w.write(ctx, batch); err != nil {
			// Another connection may do better, and sees a changed schema.
			_ = w.conn.Close() // nothing on it is waited for
			w.conn = nil
			return err
		}
	}
	return nil
}

// fetch waits for a message and takes what is there beside it.
func (w *writer) fetch(ctx context.Context, c jetstream.Consumer) ([]delivery, error) {
	var batch []delivery
	count := 0
	take := func(got jetstream.MessageBatch, err error) error {
		if err != nil {
			return fmt.Errorf("fetch from JetStream: %w", err)
		}
		for msg := range got.Messages() {
			d, ok := w.read(ctx, msg)
			if !ok {
				continue
			}
			count += d.count()
			batch = append(batch, d)
		}
		if err := got.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, jetstream.ErrNoMessages) && ctx.Err() == nil {
			return fmt.Errorf("fetch from JetStream: %w", err)
		}
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, fetchWait)
	defer cancel()
	err := take(c.Fetch(1, jetstream.FetchContext(wait)))
	for err == nil && len(batch) > 0 && len(batch) < maxInFlight && count < maxRows {
		before := len(batch)
		// One at a time bounds the rows in memory; eight cost one more round trip.
		err = take(c.FetchNoWait(min(8, maxInFlight-len(batch))))
		if len(batch) == before {
			break
		}
	}
	if len(batch) > 0 {
		return batch, nil // what failed shows again on the next fetch
	}
	return nil, err
}

// read decodes a message. One that can't be read never will be: it goes to
// quarantine.
func (w *writer) read(ctx context.Context, msg jetstream.Msg) (delivery, bool) {
	cluster := msg.Headers().Get(headerCluster)
	r, err := w.unpack(cluster, msg)
	if err != nil {
		w.quarantine(ctx, msg, err)
		return delivery{}, false
	}
	return delivery{msg, r}, true
}

func (w *writer) unpack(cluster string, msg jetstream.Msg) (rows, error) {
	subject := subjectPrefix
	format := msg.Headers().Get(headerFormat)
	if format == formatSession {
		subject = sessionSubject
	}
	if msg.Subject() != subject+cluster {
		return rows{}, errors.New("its subject is another cluster's")
	}
	if format == formatSession {
		sessions, frames, err := readPiece(cluster, msg.Data())
		return rows{sessions: sessions, frames: frames}, err
	}
	events, err := unpack(format, msg.Data())
	if err != nil {
		return rows{}, err
	}
	r := rows{events: make([]schema.Event, len(events))}
	for i, ev := range events {
		r.events[i] = row(w.agents, cluster, ev)
		r.events[i].Source = msg.Headers().Get(headerSource)
	}
	return r, nil
}

// write inserts the batch and acknowledges it. When ClickHouse answers but
// refuses, the messages are tried one by one, so that one of them can't hold
// back the rest.
func (w *writer) write(ctx context.Context, batch []delivery) error {
	if len(batch) == 0 {
		return nil
	}
	var all rows
	for _, d := range batch {
		all.add(d.rows)
	}
	err := w.insert(ctx, all)
	if err == nil {
		w.finish(ctx, batch, all.events)
		return nil
	}
	if !errors.As(err, new(*clickhouse.Exception)) || len(batch) == 1 {
		w.putBack(ctx, batch)
		return err
	}
	var refused []delivery
	for _, d := range batch {
		if one := w.insert(ctx, d.rows); one != nil {
			refused, err = append(refused, d), one
			continue
		}
		w.finish(ctx, []delivery{d}, d.events)
	}
	if len(refused) == len(batch) {
		w.putBack(ctx, refused) // ClickHouse's trouble, not theirs
		return err
	}
	for _, d := range refused {
		if delivered(d.msg) >= patience {
			w.quarantine(ctx, d.msg, err)
			continue
		}
		w.putBack(ctx, []delivery{d})
	}
	return nil
}

func (w *writer) insert(ctx context.Context, r rows) error {
	// A stop lets the insert that is under way finish: less comes twice.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), insertTimeout)
	defer cancel()
	began := time.Now()
	err := schema.Insert(ctx, w.conn, r.events)
	if err == nil {
		err = schema.InsertSessions(ctx, w.conn, r.sessions, r.frames)
	}
	if err != nil {
		w.metrics.failures.Inc()
		return err
	}
	w.metrics.inserted(r.events, r.count(), time.Since(began), time.Now())
	return nil
}

// finish logs what is inserted and acknowledges it. Events of a cluster whose log
// can't be extended come again; they hold up no other's.
func (w *writer) finish(ctx context.Context, batch []delivery, events []schema.Event) {
	bad := map[string]error{}
	if w.chain != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), insertTimeout)
		defer cancel()
		bad = w.chain.add(ctx, w.conn, events)
	}
	for cluster, err := range bad {
		w.metrics.chainFailures.WithLabelValues(cluster).Inc()
		w.log.ErrorContext(ctx, "the log that proves what is stored can't be extended: its events wait in the stream", "cluster", cluster, "error", err)
	}
	for _, d := range batch {
		if bad[d.msg.Headers().Get(headerCluster)] != nil && len(d.events) > 0 {
			w.putBack(ctx, []delivery{d})
			continue
		}
		w.ack(ctx, d.msg)
	}
}

// ack waits until JetStream has taken note. One that fails costs a
// redelivery, whose rows replace themselves.
func (w *writer) ack(ctx context.Context, msg jetstream.Msg) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ackTimeout)
	defer cancel()
	if err := msg.DoubleAck(ctx); err != nil {
		w.log.WarnContext(ctx, "insert not acknowledged, it will come again", "error", err)
		w.stream.fail()
	}
}

// putBack gives messages back, to come again the later the oftener they came.
func (w *writer) putBack(ctx context.Context, batch []delivery) {
	for _, d := range batch {
		delay := time.Second << min(delivered(d.msg), 5)
		if err := d.msg.NakWithDelay(min(delay, maxBackoff)); err != nil {
			w.log.DebugContext(ctx, "message not given back, it comes again by itself", "error", err)
		}
	}
}

func delivered(msg jetstream.Msg) uint64 {
	meta, err := msg.Metadata()
	if err != nil {
		return 0
	}
	return meta.NumDelivered
}

// quarantine moves a message to the quarantine stream. What it holds was
// masked when it was received.
func (w *writer) quarantine(ctx context.Context, msg jetstream.Msg, why error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
	defer cancel()
	w.log.ErrorContext(ctx, "stored batch quarantined", "subject", msg.Subject(), "reason", why)
	moved := copyTo(storedSubject, msg.Headers(), msg.Data())
	moved.Header.Set(headerReason, firstLine(why.Error()))
	if err := w.stream.publish(ctx, moved, msg.Headers().Get(nats.MsgIdHdr)+"-stored"); err != nil {
		w.log.ErrorContext(ctx, "stored batch not quarantined, it will come again", "error", err)
		if err := msg.NakWithDelay(maxBackoff); err != nil {
			w.log.DebugContext(ctx, "message not given back, it comes again by itself", "error", err)
		}
		return
	}
	w.ack(ctx, msg)
}

// firstLine fits an error into a header.
func firstLine(s string) string {
	const most = 500
	for i, r := range s {
		if r < ' ' || i >= most {
			return s[:i]
		}
	}
	return s
}

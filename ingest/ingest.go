package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
	"github.com/tipstaff-dev/tipstaff/mask"
)

// Store opens a connection to the ClickHouse that events are written to. An
// error means that it can't be reached now: the writer tries again.
type Store interface {
	Open(ctx context.Context) (driver.Conn, error)
}

// Ingest receives audit events and writes them to ClickHouse.
type Ingest struct {
	cfg     Config
	agents  *clusteragents.Config
	masker  *mask.Masker
	target  Store
	log     *slog.Logger
	now     func() time.Time
	slots   chan struct{}
	stream  atomic.Pointer[stream]
	metrics metrics
	outcome func(Outcome) bool // nil where nobody wants them
}

type metrics struct {
	batches, events, outcomes *prometheus.CounterVec
	sessions                  *prometheus.CounterVec
	rows, failures            prometheus.Counter
}

// New makes an Ingest from a valid cfg. Nothing is opened before Run. agents are
// the identities of the cluster that count as agents, nil for none.
func New(cfg Config, agents *clusteragents.Config, masker *mask.Masker, store Store, log *slog.Logger) (*Ingest, error) {
	if masker == nil || store == nil {
		return nil, errors.New("ingest needs a masker and a store")
	}
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "tipstaff", Subsystem: "ingest", Name: name, Help: help}
	}
	in := &Ingest{
		cfg: cfg, agents: agents, masker: masker, target: store, log: log, now: time.Now, slots: make(chan struct{}, maxBatches),
		metrics: metrics{
			batches:  prometheus.NewCounterVec(counter("batches_total", "Batches received, by outcome."), []string{"cluster", "outcome"}),
			events:   prometheus.NewCounterVec(counter("events_total", "Events received, by outcome."), []string{"cluster", "outcome"}),
			outcomes: prometheus.NewCounterVec(counter("outcomes_total", "Ends of approved requests, passed to their approvals or dropped."), []string{"result"}),
			sessions: prometheus.NewCounterVec(counter("session_pieces_total", "Pieces of recorded sessions received, by outcome."), []string{"cluster", "outcome"}),
			rows:     prometheus.NewCounter(counter("rows_total", "Rows inserted into ClickHouse, redelivered ones counted again.")),
			failures: prometheus.NewCounter(counter("insert_failures_total", "Inserts into ClickHouse that failed.")),
		},
	}
	in.metrics.fromZero(cfg.Clusters)
	return in, nil
}

// fromZero has every counter there before it counts: one that appears at 1 has
// not increased for Prometheus.
func (m *metrics) fromZero(clusters []string) {
	for _, cluster := range clusters {
		for _, outcome := range []string{"stored", "unavailable", "malformed", "too_large"} {
			m.batches.WithLabelValues(cluster, outcome)
		}
		for _, outcome := range []string{"stored", "unavailable", "malformed"} {
			m.sessions.WithLabelValues(cluster, outcome)
		}
		m.events.WithLabelValues(cluster, "stored")
		m.events.WithLabelValues(cluster, "quarantined")
	}
	m.outcomes.WithLabelValues("passed")
	m.outcomes.WithLabelValues("dropped")
}

// Collectors are the role's metrics.
func (in *Ingest) Collectors() []prometheus.Collector {
	return []prometheus.Collector{in.metrics.batches, in.metrics.events, in.metrics.outcomes, in.metrics.sessions, in.metrics.rows, in.metrics.failures}
}

// Ready is nil when batches can be stored. It says nothing of ClickHouse: while
// that is away, taking events is what Ingest is for.
func (in *Ingest) Ready() error {
	s := in.stream.Load()
	if s == nil || !s.nc.IsConnected() {
		return errNotReady
	}
	return nil
}

// Run opens the stream and writes what is in it to ClickHouse until ctx ends.
// An error means that the stream could not be opened; later trouble is tried
// again for ever. The handler answers 503 before and after.
func (in *Ingest) Run(ctx context.Context) error {
	s, err := in.openStream(ctx)
	if err != nil || s == nil {
		return err
	}
	in.stream.Store(s)
	defer func() {
		in.stream.Store(nil)
		s.close()
	}()
	w := &writer{stream: s, target: in.target, agents: in.agents, log: in.log, metrics: &in.metrics}
	return w.run(ctx)
}

// openStream waits for a remote JetStream as long as it takes: it may start
// later than we do. One of our own either starts or must be looked at.
func (in *Ingest) openStream(ctx context.Context) (*stream, error) {
	for wait := time.Second; ; wait = min(2*wait, maxBackoff) {
		s, err := openStream(ctx, in.cfg.JetStream, in.log)
		switch {
		case err == nil:
			return s, nil
		case ctx.Err() != nil:
			return nil, nil
		case in.cfg.JetStream.Dir != "":
			return nil, fmt.Errorf("ingest: %w", err)
		}
		in.log.WarnContext(ctx, "waiting for JetStream", "error", err)
		if !pause(ctx, wait) {
			return nil, nil
		}
	}
}

// pause waits, and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

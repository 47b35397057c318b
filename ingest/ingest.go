package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/clock"

	"github.com/tipstaff-dev/tipstaff/ingest/chain"
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
	cfg    Config
	agents *clusteragents.Config
	masker *mask.Masker
	target Store
	log    *slog.Logger
	now    func() time.Time
	slots  chan struct{}
	// stream is where what is received is stored, trail where it waits for ClickHouse:
	// the same, unless there is a spool before a remote JetStream.
	stream, trail atomic.Pointer[stream]
	key           *chain.Key // nil where nothing is logged
	metrics       metrics
	outcome       func(Outcome) bool // nil where nobody wants them
}

// New makes an Ingest from a valid cfg. Nothing is opened before Run. agents are
// the identities of the cluster that count as agents, nil for none.
func New(cfg Config, agents *clusteragents.Config, masker *mask.Masker, store Store, log *slog.Logger) (*Ingest, error) {
	if masker == nil || store == nil {
		return nil, errors.New("ingest needs a masker and a store")
	}
	in := &Ingest{
		cfg: cfg, agents: agents, masker: masker, target: store, log: log, now: time.Now, slots: make(chan struct{}, maxBatches),
		metrics: newMetrics(),
	}
	if cfg.Chain != nil {
		var err error
		if in.key, err = chain.ReadKey(cfg.Chain.KeyFile, cfg.Chain.FormerKeyFiles); err != nil {
			return nil, fmt.Errorf("ingest.chain: %w", err)
		}
	}
	in.metrics.fromZero(cfg.Clusters)
	return in, nil
}

// Ready is nil when batches can be stored. It says nothing of ClickHouse: while
// that is away, taking events is what Ingest is for.
func (in *Ingest) Ready() error {
	s := in.stream.Load()
	if s == nil || !s.nc.IsConnected() {
		return errNotReady
	}
	return s.room()
}

// Run opens the stream and writes what is in it to ClickHouse until ctx ends.
// An error means that the stream could not be opened; later trouble is tried
// again for ever. The handler answers 503 before and after.
func (in *Ingest) Run(ctx context.Context) error {
	first := in.cfg.JetStream
	if first.spools() {
		first = first.spool()
	}
	s, err := in.open(ctx, first)
	for err == nil && s != nil {
		in.stream.Store(s)
		err = in.use(ctx, s)
		in.stream.Store(nil)
		s.close()
		if err != nil || ctx.Err() != nil {
			return err
		}
		in.log.ErrorContext(ctx, "the embedded JetStream doesn't answer and is started anew", "dir", first.Dir)
		again(ctx, func(ctx context.Context) bool {
			if s, err = openStream(ctx, first, in.log); err != nil {
				in.log.ErrorContext(ctx, "the embedded JetStream can't be started", "error", err)
			}
			return err == nil
		})
		if ctx.Err() != nil {
			err = nil
			if s != nil {
				s.close()
			}
			break
		}
	}
	return err
}

// use moves what s holds on until ctx ends or s has failed.
func (in *Ingest) use(ctx context.Context, s *stream) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.failed:
			cancel()
		case <-ctx.Done():
		}
	}()
	if in.cfg.JetStream.spools() {
		return in.forward(ctx, s)
	}
	return in.write(ctx, s)
}

// forward moves what spool holds to the remote JetStream, and what that holds to
// ClickHouse.
func (in *Ingest) forward(ctx context.Context, spool *stream) error {
	s, err := in.open(ctx, in.cfg.JetStream.remote())
	if err != nil || s == nil {
		return err
	}
	defer s.close()
	g, ctx := errgroup.WithContext(ctx)
	f := &forwarder{from: spool, to: s, log: in.log, metrics: &in.metrics}
	g.Go(func() error { return f.run(ctx) })
	g.Go(func() error { return in.write(ctx, s) })
	return g.Wait()
}

// write moves what s holds to ClickHouse.
func (in *Ingest) write(ctx context.Context, s *stream) error {
	in.trail.Store(s)
	defer in.trail.Store(nil)
	w := &writer{stream: s, target: in.target, agents: in.agents, log: in.log, metrics: &in.metrics}
	if in.key != nil {
		w.chain = &chainer{stream: s, key: in.key, file: in.cfg.Chain.CheckpointFile, log: in.log, heads: map[string]knownHead{}}
	}
	return w.run(ctx)
}

// open waits for a remote JetStream as long as it takes: it may start later than we
// do. One of our own either starts or must be looked at. It gives nil when ctx ended
// first.
func (in *Ingest) open(ctx context.Context, cfg JetStream) (s *stream, err error) {
	again(ctx, func(ctx context.Context) bool {
		s, err = openStream(ctx, cfg, in.log)
		if err == nil || cfg.URL == "" {
			return true
		}
		in.log.WarnContext(ctx, "waiting for JetStream", "error", err)
		return false
	})
	if err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("ingest: %w", err)
	}
	return s, nil
}

// again calls do until it returns true or ctx ends, the later the oftener it was in vain.
func again(ctx context.Context, do func(context.Context) bool) {
	delays := wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Steps: 10, Cap: maxBackoff}.DelayWithReset(clock.RealClock{}, 2*maxBackoff)
	_ = delays.Until(ctx, true, true, func(ctx context.Context) (bool, error) { return do(ctx), nil }) // ctx's end: whoever calls sees it too
}

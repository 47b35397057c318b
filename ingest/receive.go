package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"

	"github.com/tipstaff-dev/tipstaff/internal/recording"
	"github.com/tipstaff-dev/tipstaff/schema"
)

const (
	// maxBodyBytes bounds one batch. The API server's default is 400 events and
	// no bound in bytes unless --audit-webhook-truncate-enabled (10 MiB then).
	maxBodyBytes = 32 << 20
	// maxBatches bounds the batches in memory at once; the rest wait.
	maxBatches = 8
	// publishTimeout bounds the wait for the disk. The API server waits 30 s.
	publishTimeout = 10 * time.Second
)

// Handler answers POST /audit/<cluster>, where API servers send their events,
// /audit/<cluster>/proxy, where proxies send theirs, and /sessions/<cluster>,
// where proxies send pieces of recordings (see internal/recording).
//
//	200  every event is stored, or in quarantine; the piece is stored
//	400  the body is no audit.k8s.io/v1 EventList, or no piece: it would not be, sent again
//	404  the cluster isn't configured
//	413  the body is too large
//	503  nothing can be stored now: to be sent again
func (in *Ingest) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /audit/{cluster}", func(w http.ResponseWriter, r *http.Request) { in.receive(w, r, in.fromAPIServer) })
	mux.HandleFunc("POST /audit/{cluster}/proxy", func(w http.ResponseWriter, r *http.Request) { in.receive(w, r, in.fromProxy) })
	mux.HandleFunc("POST /sessions/{cluster}", func(w http.ResponseWriter, r *http.Request) { in.receive(w, r, in.piece) })
	mux.HandleFunc("GET /checkpoint/{cluster}", in.checkpoint)
	mux.HandleFunc("GET /quarantine/{cluster}", in.listQuarantine)
	mux.HandleFunc("POST /quarantine/{cluster}/{seq}", in.replayQuarantine)
	return mux
}

// refused is a body that would not be taken, sent again.
type refused struct{ error }

// Is says so to whoever calls us in the same process.
func (refused) Is(target error) bool { return target == recording.ErrRefused }

// enter gives the cluster that a request is about, when there is room for it; leave
// makes room for the next one. leave is nil where the request has been answered, or
// its client is gone.
func (in *Ingest) enter(w http.ResponseWriter, r *http.Request) (cluster string, leave func()) {
	cluster = r.PathValue("cluster")
	if !slices.Contains(in.cfg.Clusters, cluster) {
		http.Error(w, "this cluster is not configured", http.StatusNotFound)
		return "", nil
	}
	select {
	case in.slots <- struct{}{}:
		return cluster, func() { <-in.slots }
	case <-r.Context().Done():
		return "", nil
	}
}

func (in *Ingest) receive(w http.ResponseWriter, r *http.Request, take func(ctx context.Context, cluster string, body []byte) error) {
	cluster, leave := in.enter(w, r)
	if leave == nil {
		return
	}
	defer leave()
	ctx := r.Context()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if err != nil {
		code := http.StatusBadRequest
		if errors.As(err, new(*http.MaxBytesError)) {
			code = http.StatusRequestEntityTooLarge
			in.metrics.batches.WithLabelValues(cluster, "too_large").Inc()
			in.log.ErrorContext(ctx, "audit batch refused: raise the API server's truncation or lower its batch size", "cluster", cluster, "limitBytes", maxBodyBytes)
		}
		http.Error(w, "the body can't be read or is too large", code)
		return
	}
	switch err := take(ctx, cluster, body); {
	case err == nil:
		w.WriteHeader(http.StatusOK)
	case errors.As(err, new(refused)):
		http.Error(w, err.Error(), http.StatusBadRequest)
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "this can't be stored now", http.StatusServiceUnavailable)
	}
}

func (in *Ingest) fromAPIServer(ctx context.Context, cluster string, body []byte) error {
	return in.events(ctx, cluster, "", body)
}

func (in *Ingest) fromProxy(ctx context.Context, cluster string, body []byte) error {
	return in.events(ctx, cluster, schema.SourceProxy, body)
}

// events takes a batch of events.
func (in *Ingest) events(ctx context.Context, cluster, source string, body []byte) error {
	batch, err := prepare(in.masker, in.agents, cluster, body, in.now())
	if err != nil {
		in.metrics.batches.WithLabelValues(cluster, "malformed").Inc()
		in.log.ErrorContext(ctx, "audit batch refused", "cluster", cluster, "reason", err)
		return refused{err}
	}
	if err := in.store(ctx, cluster, source, batch); err != nil {
		in.metrics.batches.WithLabelValues(cluster, "unavailable").Inc()
		in.log.ErrorContext(ctx, "audit batch not stored, its sender will retry", "cluster", cluster, "error", err)
		return err
	}
	in.metrics.batches.WithLabelValues(cluster, "stored").Inc()
	in.metrics.events.WithLabelValues(cluster, "stored").Add(float64(batch.events))
	if n := len(batch.bad); n > 0 {
		in.metrics.events.WithLabelValues(cluster, "quarantined").Add(float64(n))
		in.log.ErrorContext(ctx, "audit events quarantined", "cluster", cluster, "batch", batch.id, "events", n, "firstReason", batch.bad[0].Reason)
	}
	if source == "" { // nobody else knows how the API server answered
		in.tell(batch.outcomes)
	}
	return nil
}

// store returns nil when all of the batch is on disk. Part of a batch that
// failed may be there: its messages' ids make the retry harmless.
func (in *Ingest) store(ctx context.Context, cluster, source string, b *prepared) error {
	s := in.stream.Load()
	if s == nil {
		return errNotReady
	}
	// The client's going away doesn't undo a publish: it is let finish.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
	defer cancel()
	for i, c := range b.chunks {
		msg := nats.NewMsg(subjectPrefix + cluster)
		msg.Data = c.data
		msg.Header.Set(headerCluster, cluster)
		msg.Header.Set(headerFormat, formatV1)
		msg.Header.Set(headerEvents, strconv.Itoa(c.events))
		msg.Header.Set(headerSource, source)
		if err := s.publish(ctx, msg, fmt.Sprintf("%s%s-%d", source, b.id, i)); err != nil {
			return err
		}
	}
	for _, q := range b.bad {
		data, err := json.Marshal(q)
		if err != nil {
			return fmt.Errorf("write quarantined event: %w", err)
		}
		msg := nats.NewMsg(quarantineSubject + cluster)
		msg.Data = data
		msg.Header.Set(headerCluster, cluster)
		msg.Header.Set(headerReason, q.Reason)
		if err := s.publish(ctx, msg, fmt.Sprintf("%s%s-q%d", source, b.id, q.Index)); err != nil {
			return err
		}
	}
	return nil
}

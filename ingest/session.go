package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go"

	"github.com/tipstaff-dev/tipstaff/internal/recording"
	"github.com/tipstaff-dev/tipstaff/schema"
)

// formatSession is the format of a message that holds one piece of a recording.
const formatSession = "session/v1+zstd"

// piece takes a piece of a recording. It comes masked: what is part of a secret
// in one piece only the proxy knows, which has seen the others.
func (in *Ingest) piece(ctx context.Context, cluster string, body []byte) error {
	p, err := recording.Read(body)
	if err != nil {
		in.metrics.sessions.WithLabelValues(cluster, "malformed").Inc()
		in.log.ErrorContext(ctx, "piece of a recording refused", "cluster", cluster, "reason", err)
		return refused{err}
	}
	return in.storePiece(ctx, cluster, p, body)
}

// storePiece stores body, which p was read from.
func (in *Ingest) storePiece(ctx context.Context, cluster string, p *recording.Piece, body []byte) error {
	err := func() error {
		s := in.stream.Load()
		if s == nil {
			return errNotReady
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
		defer cancel()
		msg := nats.NewMsg(sessionSubject + cluster)
		msg.Data = compressor.EncodeAll(body, nil)
		msg.Header.Set(headerCluster, cluster)
		msg.Header.Set(headerFormat, formatSession)
		first := uint32(0)
		if len(p.Frames) > 0 {
			first = p.Frames[0].Seq
		}
		return s.publish(ctx, msg, fmt.Sprintf("session-%s-%s-%d-%d", cluster, p.Session.ID, first, len(p.Frames)))
	}()
	if err != nil {
		in.metrics.sessions.WithLabelValues(cluster, "unavailable").Inc()
		in.log.ErrorContext(ctx, "piece of a recording not stored", "cluster", cluster, "session", p.Session.ID, "error", err)
		return err
	}
	in.metrics.sessions.WithLabelValues(cluster, "stored").Inc()
	return nil
}

// readPiece gives the rows of a stored piece. A session's row comes with its
// first piece, which has no frames.
func readPiece(cluster string, data []byte) ([]schema.Session, []schema.SessionFrame, error) {
	body, err := decompressor.DecodeAll(data, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("decompress: %w", err)
	}
	p, err := recording.Read(body)
	if err != nil {
		return nil, nil, err
	}
	if len(p.Frames) == 0 {
		return []schema.Session{schema.SessionOf(cluster, &p.Session)}, nil, nil
	}
	return nil, schema.FramesOf(cluster, p), nil
}

// Records stores what a proxy in the same process tells of one cluster.
type Records struct {
	in      *Ingest
	cluster string
}

// RecordsOf gives what stores the proxy's records of cluster, which must be one
// of the configured ones.
func (in *Ingest) RecordsOf(cluster string) (*Records, error) {
	if !slices.Contains(in.cfg.Clusters, cluster) {
		return nil, errors.New("ingest takes no events of this cluster")
	}
	return &Records{in, cluster}, nil
}

// StoreSession stores a piece of a recording. nil means that it is on disk, and
// will be read there: what it becomes is read here as one that comes over the
// network is. recording.ErrRefused means that it would not be taken again either.
func (r *Records) StoreSession(ctx context.Context, p *recording.Piece) error {
	body, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("write the piece: %w", err)
	}
	return r.in.piece(ctx, r.cluster, body)
}

// StoreEvents stores an audit.k8s.io/v1 EventList. nil means that it is on disk,
// recording.ErrRefused that it would not be taken again either.
func (r *Records) StoreEvents(ctx context.Context, list []byte) error {
	return r.in.fromProxy(ctx, r.cluster, list)
}

package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	streamName        = "TIPSTAFF_AUDIT"
	quarantineName    = "TIPSTAFF_QUARANTINE"
	subjectPrefix     = "tipstaff.audit."
	sessionSubject    = "tipstaff.session."
	quarantineSubject = "tipstaff.quarantine."
	// writerName is the consumer that ClickHouse's writer reads by, forwarderName the
	// one that a spool is emptied by. A stream has one of the two.
	writerName    = "clickhouse-writer"
	forwarderName = "forwarder"

	// dedupeWindow outlasts the API server's retries of one batch (about 80 s)
	// and a restart in their midst.
	dedupeWindow = 15 * time.Minute
	// quarantineBytes bounds the quarantine: the oldest goes first.
	quarantineBytes = 256 << 20
	// maxPayload is the largest message that the embedded server takes: older
	// versions stored messages of up to this size.
	maxPayload = 64 << 20
	// chainBytes are for the heads of some hundred clusters.
	chainBytes = 1 << 30
	// minPayload is what a remote server must take: a message has no more.
	minPayload = 8 << 20
	// ackWait is after how long without a word a message is handed out again.
	ackWait      = time.Minute
	maxInFlight  = 64
	startTimeout = 30 * time.Second
)

// stream is the JetStream connection, with the server behind it if it is ours.
type stream struct {
	js     jetstream.JetStream
	nc     *nats.Conn
	server *server.Server
	lock   *os.File
	// dir is the embedded server's folder.
	dir string
	// failed is closed when the embedded server must be started anew.
	failed   chan struct{}
	failOnce sync.Once
}

// openStream starts the embedded server, or connects to the remote one, and
// makes sure of the streams.
func openStream(ctx context.Context, cfg JetStream, log *slog.Logger) (*stream, error) {
	s := &stream{dir: cfg.Dir, failed: make(chan struct{})}
	url, opts := cfg.URL, cfg.identity()
	opts = append(opts,
		nats.Name("tipstaff-ingest"), nats.MaxReconnects(-1),
		// A publish must fail, not wait in memory, when the server is away.
		nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.WarnContext(ctx, "JetStream is away", "error", err)
			}
		}),
	)
	if cfg.Dir != "" {
		if err := s.startServer(cfg); err != nil {
			s.close()
			return nil, err
		}
		url, opts = "", append(opts, nats.InProcessServer(s.server))
	}
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		s.close()
		return nil, fmt.Errorf("connect to JetStream: %w", err)
	}
	s.nc = nc
	if most := nc.MaxPayload(); most < minPayload {
		s.close()
		return nil, fmt.Errorf("JetStream takes messages of %d bytes at the most: set max_payload: 8MB in each server's configuration", most)
	}
	if s.js, err = jetstream.New(nc); err != nil {
		s.close()
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	if err := s.ensure(ctx, cfg); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// identity is who we are to a remote server.
func (j *JetStream) identity() []nats.Option {
	var opts []nats.Option
	if j.CredentialsFile != "" {
		opts = append(opts, nats.UserCredentials(j.CredentialsFile))
	}
	if j.CAFile != "" {
		opts = append(opts, nats.RootCAs(j.CAFile))
	}
	if j.CertFile != "" {
		opts = append(opts, nats.ClientCert(j.CertFile, j.KeyFile))
	}
	return opts
}

func (s *stream) startServer(cfg JetStream) error {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make JetStream's folder: %w", err)
	}
	// Two servers in one folder would destroy it.
	lock, err := os.OpenFile(filepath.Join(cfg.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock JetStream's folder: %w", err)
	}
	s.lock = lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("JetStream's folder %s is in use by another process: %w", cfg.Dir, err)
	}
	s.server, err = server.NewServer(&server.Options{
		ServerName: "tipstaff", DontListen: true, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: cfg.Dir, SyncAlways: true,
		JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: cfg.maxBytes() + quarantineBytes + chainBytes,
		MaxPayload: maxPayload, MaxPending: 4 * maxPayload,
	})
	if err != nil {
		return fmt.Errorf("make the embedded JetStream: %w", err)
	}
	go s.server.Start()
	if !s.server.ReadyForConnections(startTimeout) {
		return fmt.Errorf("the embedded JetStream in %s did not start in %s", cfg.Dir, startTimeout)
	}
	return nil
}

func (j *JetStream) maxBytes() int64 {
	if j.MaxBytes == 0 {
		return defaultMaxBytes
	}
	return j.MaxBytes
}

func (s *stream) ensure(ctx context.Context, cfg JetStream) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	replicas := max(cfg.Replicas, 1)
	_, err := s.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: streamName, Description: "audit events and recordings on their way to ClickHouse",
		Subjects: []string{subjectPrefix + "*", sessionSubject + "*"}, Storage: jetstream.FileStorage, Replicas: replicas,
		// What is written is gone; full, it refuses what is new.
		Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew,
		MaxBytes: cfg.maxBytes(), Duplicates: dedupeWindow,
	})
	if err != nil {
		return fmt.Errorf("make the stream %s: %w", streamName, err)
	}
	_, err = s.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: quarantineName, Description: "audit events that could not be understood, and why",
		Subjects: []string{quarantineSubject + "*"}, Storage: jetstream.FileStorage, Replicas: replicas,
		Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardOld,
		MaxBytes: quarantineBytes, Duplicates: dedupeWindow,
	})
	if err != nil {
		return fmt.Errorf("make the stream %s: %w", quarantineName, err)
	}
	_, err = s.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: chainName, Description: "heads of the log that proves what was stored",
		Subjects: []string{chainSubject + "*"}, Storage: jetstream.FileStorage, Replicas: replicas,
		Retention: jetstream.LimitsPolicy, MaxMsgsPerSubject: maxHeads,
	})
	if err != nil {
		return fmt.Errorf("make the stream %s: %w", chainName, err)
	}
	return nil
}

// consumer gives the durable consumer of that name on a stream. The other one, which was there
// when this was a spool, or wasn't, would stand in its way: what has been
// acknowledged there is gone from the stream, so nothing is lost with it.
func (s *stream) consumer(ctx context.Context, stream, name string) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	other := writerName
	if name == writerName {
		other = forwarderName
	}
	if err := s.js.DeleteConsumer(ctx, stream, other); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil, fmt.Errorf("remove the consumer %s: %w", other, err)
	}
	c, err := s.js.CreateOrUpdateConsumer(ctx, stream, jetstream.ConsumerConfig{
		Durable: name, AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait,
		MaxDeliver: -1, MaxAckPending: 4 * maxInFlight,
	})
	if err != nil {
		return nil, fmt.Errorf("make the consumer %s: %w", name, err)
	}
	return c, nil
}

// publish stores one message and returns when it is on disk. A message whose
// id was seen before is there already, which is as good.
func (s *stream) publish(ctx context.Context, msg *nats.Msg, id string) error {
	if err := s.room(); err != nil {
		return err
	}
	// Without retries: the API server has the batch still, and tries again.
	_, err := s.js.PublishMsg(ctx, msg, jetstream.WithMsgID(id), jetstream.WithRetryAttempts(0))
	if err != nil {
		if !errors.As(err, new(*jetstream.APIError)) {
			s.fail()
		}
		return fmt.Errorf("store in JetStream: %w", err)
	}
	return nil
}

// minFreeBytes must be left on the embedded server's disk: one that finds it full
// stops for good.
const minFreeBytes = 64 << 20

// room is nil when there is room for more on the embedded server's disk.
func (s *stream) room() error {
	if s.server == nil {
		return nil
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs(s.dir, &disk); err != nil {
		return fmt.Errorf("ask for the room on the disk of JetStream's folder: %w", err)
	}
	if free := disk.Bavail * uint64(disk.Bsize); free < minFreeBytes { //nolint:gosec // a block's size is positive
		return fmt.Errorf("the disk of JetStream's folder %s is full: %d bytes are free, %d are needed", s.dir, free, uint64(minFreeBytes))
	}
	return nil
}

// fail says that JetStream took something and gave no answer. An embedded server
// that couldn't write doesn't try again: it must be started anew. A remote one is
// somebody else's.
func (s *stream) fail() {
	if s.server != nil {
		s.failOnce.Do(func() { close(s.failed) })
	}
}

// close ends everything that was opened. The server writes out what it holds.
func (s *stream) close() {
	if s.nc != nil {
		s.nc.Close()
	}
	if s.server != nil {
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}
	if s.lock != nil {
		_ = s.lock.Close() // gives the lock back too
	}
}

// errNotReady means that there is no stream yet, or none any more.
var errNotReady = errors.New("JetStream is not ready")

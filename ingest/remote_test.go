package ingest

import (
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// remote is a NATS server with JetStream on a port of its own, that can be stopped
// and started again.
type remote struct {
	t       testing.TB
	options server.Options
	server  *server.Server
}

func newRemote(t testing.TB) *remote {
	t.Helper()
	return &remote{t: t, options: server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), SyncAlways: true,
		JetStreamMaxStore: 32 << 30, MaxPayload: 8 << 20, MaxPending: 64 << 20, NoLog: true, NoSigs: true,
	}}
}

// start has it on the port that it had before.
func (r *remote) start() (url string) {
	r.t.Helper()
	opts := r.options
	s, err := server.NewServer(&opts)
	if err != nil {
		r.t.Fatal(err)
	}
	r.server = s
	go s.Start()
	r.t.Cleanup(r.stop)
	if !s.ReadyForConnections(10 * time.Second) {
		r.t.Fatal("NATS did not start")
	}
	r.options.Port = s.Addr().(*net.TCPAddr).Port
	return s.ClientURL()
}

func (r *remote) stop() {
	if r.server != nil {
		r.server.Shutdown()
		r.server.WaitForShutdown()
		r.server = nil
	}
}

// remoteJetStream is one that runs until the test ends.
func remoteJetStream(t *testing.T) string {
	t.Helper()
	return newRemote(t).start()
}

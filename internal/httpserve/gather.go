package httpserve

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"time"
)

// gatherBytes is how much of an answer waits at most to be sent by one system call.
const gatherBytes = 64 << 10

// gathering is a connection that can have what is written wait for more: TLS
// sends each record by itself, and net/http parts an answer after 4 KB.
type gathering struct {
	net.Conn

	mu   sync.Mutex
	hold bool
	held []byte
	err  error // of what was held; nothing more goes out then

	gone func() // called when it is closed
}

var gatherPool = sync.Pool{New: func() any { return new([gatherBytes]byte) }}

// Write sends b, or keeps it to be sent with what follows. Then an error comes
// up at a later write or when the rest is sent.
func (c *gathering) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if !c.hold {
		return c.Conn.Write(b)
	}
	if len(c.held)+len(b) > gatherBytes {
		if err := c.send(); err != nil {
			return 0, err
		}
	}
	if len(b) > gatherBytes {
		return c.Conn.Write(b)
	}
	if c.held == nil {
		c.held = gatherPool.Get().(*[gatherBytes]byte)[:0] //nolint:forcetypeassert // the pool holds nothing else
	}
	c.held = append(c.held, b...)
	return len(b), nil
}

func (c *gathering) send() error {
	if c.held == nil {
		return nil
	}
	_, c.err = c.Conn.Write(c.held)
	gatherPool.Put((*[gatherBytes]byte)(c.held[:gatherBytes]))
	c.held = nil
	return c.err
}

// Close closes the connection.
func (c *gathering) Close() error {
	c.gone()
	return c.Conn.Close()
}

func (c *gathering) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.send()
}

// gatheringListener gives connections that can gather, and knows those that are open.
type gatheringListener struct {
	net.Listener
	open sync.Map // of *gathering
}

// Accept waits for the next connection.
func (l *gatheringListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g := &gathering{Conn: c}
	g.gone = func() { l.open.Delete(g) }
	l.open.Store(g, nil)
	return g, nil
}

// unblock ends the writes that wait for clients who don't read. TLS would have each
// wait five seconds more before it closes the connection.
func (l *gatheringListener) unblock() {
	l.open.Range(func(g, _ any) bool {
		_ = g.(*gathering).SetWriteDeadline(time.Now()) //nolint:forcetypeassert // nothing else is in it
		return true
	})
}

type gatheringKey struct{}

// withGathering is a [http.Server]'s ConnContext.
func withGathering(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if g, ok := c.(*gathering); ok {
		return context.WithValue(ctx, gatheringKey{}, g)
	}
	return ctx
}

// Gather gives a writer for the answer to r that sends in pieces of up to 64 KiB
// what w would send in several smaller ones: when there is as much, and at each
// Flush. end must be called when the answer is written; what then comes is sent
// as it comes. Over HTTP/2, where many answers share a connection, it is w.
func Gather(w http.ResponseWriter, r *http.Request) (gathered http.ResponseWriter, end func()) {
	c, ok := r.Context().Value(gatheringKey{}).(*gathering)
	if !ok || r.ProtoMajor != 1 {
		return w, func() {}
	}
	c.mu.Lock()
	c.hold = true
	c.mu.Unlock()
	return &gatheredWriter{w, c}, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.hold = false
		_ = c.send() // a client that is gone needs no answer
	}
}

type gatheredWriter struct {
	http.ResponseWriter
	conn *gathering
}

// Unwrap is for [http.ResponseController].
func (g *gatheredWriter) Unwrap() http.ResponseWriter { return g.ResponseWriter }

// FlushError sends what has been written.
func (g *gatheredWriter) FlushError() error {
	if err := http.NewResponseController(g.ResponseWriter).Flush(); err != nil {
		return err
	}
	return g.conn.flush()
}

package httpserve

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
)

// counted counts what is written to the connections of a listener, call by call.
type counted struct {
	net.Listener
	writes *atomic.Int64
}

func (l counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countedConn{c, l.writes}, nil
}

type countedConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c *countedConn) Write(b []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(b)
}

func TestGatheredPiecesAreSentByOneCall(t *testing.T) {
	t.Parallel()
	c := newCA(t)
	c.issue("server", 2)
	const pieces = 5
	for name, tc := range map[string]struct {
		size, most int
		gather     bool
	}{
		"events of 10 KB":                  {10 << 10, 1, true},
		"of 200 KB: as few as they can be": {200 << 10, 4, true},
		"as they come":                     {10 << 10, 100, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			piece := bytes.Repeat([]byte("0123456789abcdef"), tc.size/16)
			var writes atomic.Int64
			gotten := make(chan struct{})
			var perPiece []int64
			s := &Server{
				Name: "test", Log: slog.New(slog.DiscardHandler),
				TLS: TLS{CertFile: filepath.Join(c.dir, "server.crt"), KeyFile: filepath.Join(c.dir, "server.key")},
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					end := func() {}
					if tc.gather {
						w, end = Gather(w, r)
					}
					defer end()
					for range pieces {
						before := writes.Load()
						if _, err := w.Write(piece); err != nil {
							t.Error(err)
						}
						if err := http.NewResponseController(w).Flush(); err != nil {
							t.Error(err)
						}
						perPiece = append(perPiece, writes.Load()-before)
						<-gotten // nothing waits for what follows
					}
					_, _ = io.WriteString(w, "the end")
				}),
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- s.Serve(ctx, counted{l, &writes}) }()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
			resp, err := c.client().Get("https://" + l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			got := make([]byte, len(piece))
			for i := range pieces {
				if _, err := io.ReadFull(resp.Body, got); err != nil || !bytes.Equal(got, piece) {
					t.Fatalf("piece %d came otherwise: %v", i, err)
				}
				gotten <- struct{}{}
			}
			if rest, err := io.ReadAll(resp.Body); err != nil || string(rest) != "the end" {
				t.Errorf("the end: %q, %v", rest, err)
			}
			for i, n := range perPiece {
				if n > int64(tc.most) {
					t.Errorf("piece %d: sent by %d calls, want %d", i, n, tc.most)
				}
				if !tc.gather && n < 2 {
					t.Errorf("piece %d: sent by %d calls without gathering, so this test tells nothing", i, n)
				}
			}
		})
	}
}

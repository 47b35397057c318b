package proxy

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"github.com/moby/spdystream/spdy"

	"github.com/tipstaff-dev/tipstaff/internal/recording"
	"github.com/tipstaff-dev/tipstaff/mask"
)

// talk is a connection to an API server, message by message.
type talk struct {
	says    chan []byte
	listens chan struct{} // the next message is waited for
	hears   chan []byte
	rest    []byte
}

func (c *talk) Read(b []byte) (int, error) {
	if len(c.rest) == 0 {
		c.listens <- struct{}{}
		var more bool
		if c.rest, more = <-c.says; !more {
			return 0, io.EOF
		}
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *talk) Write(b []byte) (int, error) {
	c.hears <- bytes.Clone(b)
	return len(b), nil
}

func (c *talk) Close() error { return nil }

// speaker makes and reads the frames of a protocol.
type speaker struct {
	tunnel func(ctx context.Context, t *testing.T, c io.ReadWriteCloser, s *mask.Scoped, u *upgrade) io.ReadWriteCloser
	open   []byte // what the client says first
	ping   func(id byte) []byte
	answer []byte // to a ping of the API server's
	output func(text string) []byte
	// next reads a frame of what goes to the client: a pong's id, or output.
	next func(t *testing.T, r io.Reader) (pong byte, text string)
}

func webSocketSpeaker() speaker {
	return speaker{
		tunnel: func(ctx context.Context, t *testing.T, c io.ReadWriteCloser, s *mask.Scoped, u *upgrade) io.ReadWriteCloser {
			return newWebSocketTunnel(ctx, c, s, u)
		},
		ping: func(id byte) []byte {
			return ws.MustCompileFrame(ws.MaskFrameInPlace(ws.NewPingFrame([]byte{id})))
		},
		answer: ws.MustCompileFrame(ws.MaskFrameInPlace(ws.NewPongFrame([]byte{2}))),
		output: func(text string) []byte {
			return ws.MustCompileFrame(ws.NewBinaryFrame([]byte("\x01" + text)))
		},
		next: func(t *testing.T, r io.Reader) (byte, string) {
			f, err := ws.ReadFrame(r)
			switch {
			case err != nil:
				t.Fatal(err)
			case f.Header.OpCode == ws.OpPong && len(f.Payload) == 1 && !f.Header.Masked:
				return f.Payload[0], ""
			case f.Header.OpCode == ws.OpBinary && len(f.Payload) > 0:
				return 0, string(f.Payload[1:])
			default:
				t.Fatalf("a frame of another kind: %+v", f)
			}
			return 0, ""
		},
	}
}

func spdySpeaker(t *testing.T) speaker {
	// Frames with headers share a compression, on each way.
	var toServer, toClient bytes.Buffer
	client, err := spdy.NewFramer(&toServer, nil)
	if err != nil {
		t.Fatal(err)
	}
	server, err := spdy.NewFramer(&toClient, nil)
	if err != nil {
		t.Fatal(err)
	}
	frame := func(f *spdy.Framer, b *bytes.Buffer, frame spdy.Frame) []byte {
		b.Reset()
		if err := f.WriteFrame(frame); err != nil {
			t.Fatal(err)
		}
		return bytes.Clone(b.Bytes())
	}
	const errors, stdout = 1, 3
	opened := func(id spdy.StreamId, what string) []byte {
		return frame(client, &toServer, &spdy.SynStreamFrame{StreamId: id, Headers: http.Header{"Streamtype": {what}}})
	}
	return speaker{
		tunnel: func(ctx context.Context, t *testing.T, c io.ReadWriteCloser, s *mask.Scoped, u *upgrade) io.ReadWriteCloser {
			tunnel, err := newSPDYTunnel(ctx, c, s, u)
			if err != nil {
				t.Fatal(err)
			}
			return tunnel
		},
		open:   append(opened(errors, "error"), opened(stdout, "stdout")...),
		ping:   func(id byte) []byte { return frame(client, &toServer, &spdy.PingFrame{Id: uint32(id)}) },
		answer: frame(client, &toServer, &spdy.PingFrame{Id: 2}),
		output: func(text string) []byte {
			return frame(server, &toClient, &spdy.DataFrame{StreamId: stdout, Data: []byte(text)})
		},
		next: func(t *testing.T, r io.Reader) (byte, string) {
			f, err := spdy.NewFramer(nil, r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := f.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			switch got := got.(type) {
			case *spdy.PingFrame:
				return byte(got.Id), ""
			case *spdy.DataFrame:
				return 0, string(got.Data)
			default:
				t.Fatalf("a frame of another kind: %+v", got)
			}
			return 0, ""
		},
	}
}

// A client pings while it waits for output. An API server that has sent all of
// that and closed answers what still reaches it with a reset, and the output
// that nobody has read yet would be lost.
func TestPingsReachOnlyAnAPIServerThatIsQuiet(t *testing.T) {
	t.Parallel()
	for name, speakerOf := range map[string]func(*testing.T) speaker{
		"WebSocket": func(*testing.T) speaker { return webSocketSpeaker() }, "SPDY": spdySpeaker,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			is := speakerOf(t)
			m, err := mask.New(bytes.Repeat([]byte{1}, 32))
			if err != nil {
				t.Fatal(err)
			}
			kept, came, release := newShelf(), make(chan struct{}, 1), make(chan struct{})
			kept.full = func(p *recording.Piece) bool {
				if len(p.Frames) > 0 {
					select {
					case came <- struct{}{}:
					default:
					}
					<-release
				}
				return false
			}
			server := &talk{says: make(chan []byte), listens: make(chan struct{}), hears: make(chan []byte, 100)}
			client := is.tunnel(t.Context(), t, server, m.Scope("run"), uncut(fuzzTape(kept)))
			say := func(b []byte) {
				if _, err := client.Write(b); err != nil {
					t.Fatal(err)
				}
			}
			heard := func(want []byte) {
				t.Helper()
				var got []byte
				for len(got) < len(want) {
					got = append(got, <-server.hears...)
				}
				if !bytes.Equal(got, want) {
					t.Fatalf("to the API server went %q, not %q", got, want)
				}
			}
			if is.open != nil {
				say(is.open)
				heard(is.open)
			}

			<-server.listens
			text := strings.Repeat("line\n", 10<<10)
			server.says <- is.output(text)
			<-came
			say(is.ping(1))
			say(is.answer)
			heard(is.answer) // and not the ping

			close(release)
			for got, ponged := "", false; got != text || !ponged; {
				pong, more := is.next(t, client)
				if got += more; !strings.HasPrefix(text, got) {
					t.Fatalf("output %q", more)
				}
				ponged = ponged || pong == 1
			}
			<-server.listens
			say(is.ping(3))
			if pong, more := is.next(t, client); pong != 3 {
				t.Fatalf("to the first ping came pong %d, %q", pong, more)
			}
			ping := is.ping(5)
			say(ping)
			heard(ping)
			close(server.says)
		})
	}
}

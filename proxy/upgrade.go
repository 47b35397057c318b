package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/tipstaff-dev/tipstaff/mask"
)

// The protocols that streams are upgraded to, and the versions of the remote
// command protocol whose channels are known (apimachinery,
// util/remotecommand; apiserver, util/wsstream).
const (
	upgradeSPDY      = "SPDY/3.1"
	upgradeWebSocket = "websocket"
	channelPrefix    = "v4.channel.k8s.io"
	channelV5        = "v5.channel.k8s.io"
	tunnelForwarding = "SPDY/3.1+portforward.k8s.io"
)

// upgrade is what a request asks to be upgraded to.
type upgrade struct {
	// commands is true for exec and attach, whose output is masked; false for
	// port-forward, which carries anything.
	commands  bool
	websocket bool

	tape    *tape                        // of commands, nil where none is kept
	cut     func(*apierrors.StatusError) // ends the session, with last words to its client
	silent  bool                         // the version that was chosen has no Status for how a command ended
	conn    io.Closer                    // once the API server has switched
	tunnel  *tunnel                      // the same, of a command
	refused string                       // the API server's answer, where that is no upgrade
}

// close ends the connection to the API server: where the client's couldn't be
// taken over nobody else does.
func (u *upgrade) close() {
	if u.conn != nil {
		_ = u.conn.Close() // it may have ended
	}
}

// end waits until all that passed is recorded, and says how the session ended.
func (u *upgrade) end(ctx context.Context) error {
	if u.tunnel != nil {
		u.tunnel.pumps.Wait()
	}
	why := u.refused
	if c := cutOf(ctx); c != nil {
		why = c.Error()
	} else if u.tunnel == nil && why == "" {
		why = "the API server gave no answer"
	} else if u.tunnel != nil && (!u.tunnel.told || u.tunnel.said) { // what comes after the proxy's word is too late
		why = "the connection ended before the command told how it ended"
	}
	return u.tape.end(why)
}

// upgrading gives what r is upgraded to. nil means that it isn't.
func upgrading(r *http.Request, info *request.RequestInfo) (*upgrade, *apierrors.StatusError) {
	asked := r.Header.Values("Upgrade")
	if len(asked) == 0 {
		return nil, nil
	}
	if !info.IsResourceRequest || info.APIGroup != "" || info.Resource != "pods" || !interactive[info.Subresource] {
		return nil, forbidden(info, "upgraded connections are offered through the proxy for exec, attach and port-forward only")
	}
	u := &upgrade{commands: info.Subresource != "portforward"}
	switch {
	case len(asked) == 1 && strings.EqualFold(asked[0], upgradeSPDY):
	case len(asked) == 1 && strings.EqualFold(asked[0], upgradeWebSocket):
		u.websocket = true
		if len(u.protocols(r.Header)) == 0 {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("over WebSocket the proxy speaks %s for exec and attach, and %s for port-forward: ask for one of these in Sec-WebSocket-Protocol", strings.Join([]string{channelV5, channelPrefix}, ", "), tunnelForwarding))
		}
	default:
		return nil, apierrors.NewBadRequest("the proxy upgrades to " + upgradeSPDY + " or " + upgradeWebSocket)
	}
	return u, nil
}

var interactive = map[string]bool{"exec": true, "attach": true, "portforward": true}

// protocols are those of the client's WebSocket subprotocols that can be read.
// What else may stand there, a token among it, goes no further.
func (u *upgrade) protocols(h http.Header) []string {
	known := []string{channelV5, channelPrefix}
	if !u.commands {
		known = []string{tunnelForwarding, channelPrefix}
	}
	var kept []string
	for _, v := range h.Values("Sec-WebSocket-Protocol") {
		for p := range strings.SplitSeq(v, ",") {
			if p = strings.TrimSpace(p); slices.Contains(known, p) {
				kept = append(kept, p)
			}
		}
	}
	return kept
}

// prepare makes the API server answer in what can be read.
func (u *upgrade) prepare(h http.Header) {
	if !u.websocket {
		h.Del("Sec-WebSocket-Protocol") // a token may stand there
		return
	}
	kept := u.protocols(h)
	h.Del("Sec-WebSocket-Extensions") // such as compression
	h.Set("Sec-WebSocket-Protocol", strings.Join(kept, ", "))
}

// switched puts between the client and the API server, which has switched
// protocols, what masks the output of commands.
func (u *upgrade) switched(resp *http.Response, scoped *mask.Scoped) error {
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		return errors.New("the API server's upgraded connection can't be written to")
	}
	u.conn = conn
	to := resp.Header.Get("Upgrade")
	switch {
	case u.websocket && strings.EqualFold(to, upgradeWebSocket):
		chosen := strings.Join(resp.Header.Values("Sec-WebSocket-Protocol"), ", ")
		if strings.Contains(chosen, ",") || !slices.Contains(u.protocols(http.Header{"Sec-Websocket-Protocol": {chosen}}), chosen) || resp.Header.Get("Sec-WebSocket-Extensions") != "" {
			_ = conn.Close() // nothing of it is wanted
			return fmt.Errorf("the API server chose a WebSocket protocol that was not asked for: %q", chosen)
		}
		if u.commands {
			t := newWebSocketTunnel(resp.Request.Context(), conn, scoped, u)
			u.conn, u.tunnel, resp.Body = t, t.tunnel, t
		}
	case !u.websocket && strings.EqualFold(to, upgradeSPDY):
		if u.commands {
			u.silent = !slices.Contains(tellingVersions, resp.Header.Get("X-Stream-Protocol-Version"))
			t, err := newSPDYTunnel(resp.Request.Context(), conn, scoped, u)
			if err != nil {
				_ = conn.Close() // nothing of it is wanted
				return err
			}
			u.conn, u.tunnel, resp.Body = t, t.tunnel, t
		}
	default:
		_ = conn.Close() // nothing of it is wanted
		return fmt.Errorf("the API server switched to %q", to)
	}
	return nil
}

// tellingVersions are those in which a command always tells how it ended, by a
// Status. Before them its success is silence, and a failure any text.
var tellingVersions = []string{channelPrefix, channelV5}

// maxFrameBytes bounds one frame of a stream. The API server sends at most 32
// KiB at once.
const maxFrameBytes = 1 << 20

var errFrame = fmt.Errorf("a frame is larger than %d bytes", maxFrameBytes)

// tunnel is an upgraded connection to the API server whose bytes on the way to
// the client are made anew. Those that come from there are read, too.
type tunnel struct {
	conn io.ReadWriteCloser // to the API server
	ctx  context.Context    // the request's own, for as long as its connection

	cut func(*apierrors.StatusError)

	client *io.PipeWriter // what the client sent
	out    *io.PipeReader // what it gets
	deaf   atomic.Bool    // the API server takes nothing any more
	silent atomic.Bool    // no Status is to be expected, or nobody is there to read it
	pumps  sync.WaitGroup

	told bool // the command has told how it ended; toClient's, until pumps are done
	said bool // the proxy has told that it didn't

	quiet atomic.Int32      // how long the API server has said nothing
	pongs chan func() error // to the client, from the proxy; fromClient alone sends

	mu sync.Mutex // one frame at a time
	to *io.PipeWriter
}

// The states of tunnel.quiet.
const (
	notQuiet   int32 = iota // what came is still being passed on
	quietNow                // the next byte is waited for
	quietSince              // it was when the client's last ping came
)

func newTunnel(ctx context.Context, conn io.ReadWriteCloser, u *upgrade) *tunnel {
	t := &tunnel{conn: conn, ctx: ctx, cut: u.cut, pongs: make(chan func() error, 1)}
	t.silent.Store(u.silent)
	t.out, t.to = io.Pipe()
	return t
}

// Read gives what goes to the client.
func (t *tunnel) Read(b []byte) (int, error) { return t.out.Read(b) }

// Write takes what the client sent. When that is read no more it is dropped:
// what goes the other way must still arrive.
func (t *tunnel) Write(b []byte) (int, error) {
	_, _ = t.client.Write(b) // fails once the session has ended
	return len(b), nil
}

// pass gives the API server what the client sent. What it doesn't take any more
// is dropped: what it sent before it closed must still arrive.
func (t *tunnel) pass(b []byte) {
	if !t.deaf.Load() {
		if _, err := t.conn.Write(b); err != nil {
			t.deaf.Store(true)
		}
	}
}

// received gives what the API server sends, until the session is cut.
func (t *tunnel) received() io.Reader {
	return &untilCut{t.ctx, readerFunc(func(b []byte) (int, error) {
		t.quiet.Store(quietNow)
		n, err := t.conn.Read(b)
		t.quiet.Store(notQuiet)
		return n, err
	})}
}

type readerFunc func([]byte) (int, error)

// Read calls the function.
func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// pinged reports whether a ping of the client is for the API server. It is
// when nothing has come from there since the last one. Otherwise the proxy
// answers it with pong: what the API server sent may not have been read yet,
// and it may have closed behind that. To what reaches a closed socket the
// kernel answers with a reset, and then drops what it has not delivered.
func (t *tunnel) pinged(pong func() error) bool {
	if t.quiet.Load() == quietSince {
		return true
	}
	t.quiet.CompareAndSwap(quietNow, quietSince)
	select {
	case t.pongs <- pong:
	default: // The client is behind: it has yet to read an earlier one.
	}
	return false
}

// Close ends both directions. A session that is cut has last words.
func (t *tunnel) Close() error {
	_ = t.client.Close() // never fails
	if cutOf(t.ctx) == nil {
		_ = t.out.Close() // never fails
	} else {
		time.AfterFunc(cutGrace, func() { _ = t.out.Close() })
	}
	return t.conn.Close()
}

// unlessCut has pass take nothing once the session is cut, not even what was
// read before: only its last words go out then (I9).
func (t *tunnel) unlessCut(pass func([]byte) error) func([]byte) error {
	return func(data []byte) error {
		if c := cutOf(t.ctx); c != nil {
			return c
		}
		return pass(data)
	}
}

// brokenOff is what a client is told whose command didn't tell how it ended.
// client-go takes an error stream that just ends for a success.
var brokenOff = apierrors.NewInternalError(errors.New("the connection to the container ended before the command told how it ended: its output may be incomplete"))

// untold gives that, once, where it is to be told: not where the client itself
// has left.
func (t *tunnel) untold() []byte {
	if t.told || t.said || t.silent.Load() || cutOf(t.ctx) != nil {
		return nil
	}
	t.said = true
	return encoded(brokenOff)
}

// lastWords are for when all else has been passed on.
func (t *tunnel) lastWords() []byte {
	if c := cutOf(t.ctx); c != nil {
		return encoded(c.status)
	}
	return t.untold()
}

func encoded(why *apierrors.StatusError) []byte {
	status, err := json.Marshal(statusOf(why))
	if err != nil {
		return nil // a Status of ours always encodes
	}
	return status
}

// misread ends the session of a client that doesn't keep to the protocol. One
// that is gone gets no last words.
func (t *tunnel) misread(err error) {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) {
		return
	}
	status := apierrors.NewBadRequest("what the client sent can't be read: the session was ended")
	_ = errors.As(err, &status) // else that
	t.cut(status)
}

// run has the client's bytes taken by fromClient and made by toClient, until
// these return. last says to the client how the session ended, where the command
// didn't.
func (t *tunnel) run(fromClient func(io.Reader) error, toClient func() error, last func(why []byte) error) {
	sent, client := io.Pipe()
	t.client = client
	t.pumps.Go(func() {
		err := guarded(func() error { return fromClient(sent) })
		if err != nil && !errors.Is(err, io.EOF) {
			t.misread(err)
			_ = t.Close() // the other direction ends, too
		}
		_ = sent.Close() // never fails
		close(t.pongs)
	})
	t.pumps.Go(func() {
		for pong := range t.pongs {
			_ = guarded(pong) // fails once the session has ended
		}
	})
	t.pumps.Go(func() {
		err := guarded(toClient)
		if why := t.lastWords(); why != nil {
			err = guarded(func() error { return last(why) })
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		_ = t.to.CloseWithError(err) // never fails; nil is io.EOF
		_ = t.conn.Close()           // the reader has seen its end
	})
}

// guarded makes a panic an error: outside of the server's own goroutine a bug
// of ours would end every role of the process.
func guarded(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errPanicked // what with may quote what passed
		}
	}()
	return f()
}

var errPanicked = errors.New("a bug in the proxy: it panicked")

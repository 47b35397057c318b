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
	to := resp.Header.Get("Upgrade")
	switch {
	case u.websocket && strings.EqualFold(to, upgradeWebSocket):
		chosen := strings.Join(resp.Header.Values("Sec-WebSocket-Protocol"), ", ")
		if strings.Contains(chosen, ",") || !slices.Contains(u.protocols(http.Header{"Sec-Websocket-Protocol": {chosen}}), chosen) || resp.Header.Get("Sec-WebSocket-Extensions") != "" {
			_ = conn.Close() // nothing of it is wanted
			return fmt.Errorf("the API server chose a WebSocket protocol that was not asked for: %q", chosen)
		}
		if u.commands {
			resp.Body = newWebSocketTunnel(resp.Request.Context(), conn, scoped)
		}
	case !u.websocket && strings.EqualFold(to, upgradeSPDY):
		if u.commands {
			resp.Body = newSPDYTunnel(resp.Request.Context(), conn, scoped)
		}
	default:
		_ = conn.Close() // nothing of it is wanted
		return fmt.Errorf("the API server switched to %q", to)
	}
	return nil
}

// maxFrameBytes bounds one frame of a stream. The API server sends at most 32
// KiB at once.
const maxFrameBytes = 1 << 20

var errFrame = fmt.Errorf("a frame is larger than %d bytes", maxFrameBytes)

// tunnel is an upgraded connection to the API server whose bytes on the way to
// the client are made anew.
type tunnel struct {
	io.ReadWriteCloser // to the API server

	ctx context.Context // the request's own, for as long as its connection

	out  *io.PipeReader
	deaf atomic.Bool // the API server takes nothing any more

	mu sync.Mutex // one frame at a time
	to *io.PipeWriter
}

func newTunnel(ctx context.Context, conn io.ReadWriteCloser) *tunnel {
	t := &tunnel{ReadWriteCloser: conn, ctx: ctx}
	t.out, t.to = io.Pipe()
	return t
}

// Read gives what goes to the client.
func (t *tunnel) Read(b []byte) (int, error) { return t.out.Read(b) }

// Write passes on what the client sent. What the API server doesn't take any
// more is dropped: what it sent before it closed must still arrive.
func (t *tunnel) Write(b []byte) (int, error) {
	if !t.deaf.Load() {
		if _, err := t.ReadWriteCloser.Write(b); err != nil {
			t.deaf.Store(true)
		}
	}
	return len(b), nil
}

// Close ends both directions. A session that is cut has last words.
func (t *tunnel) Close() error {
	if cutOf(t.ctx) == nil {
		_ = t.out.Close() // never fails
	} else {
		time.AfterFunc(cutGrace, func() { _ = t.out.Close() })
	}
	return t.ReadWriteCloser.Close()
}

// run has pump make the client's bytes, until it returns. If the session was
// cut, last says why to the client.
func (t *tunnel) run(pump func() error, last func(why []byte) error) {
	go func() {
		err := func() (err error) {
			defer func() {
				if r := recover(); r != nil {
					err = errors.New("the masker panicked") // what with may quote the stream
				}
			}()
			return pump()
		}()
		if c := cutOf(t.ctx); c != nil {
			if why, merr := json.Marshal(statusOf(c.status)); merr == nil {
				err = last(why)
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		_ = t.to.CloseWithError(err)  // never fails; nil is io.EOF
		_ = t.ReadWriteCloser.Close() // the reader has seen its end
	}()
}

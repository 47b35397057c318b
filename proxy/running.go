package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Revoked says whether an agent is revoked, and why. An error means that this
// can't be known now: the agent is refused, and what it has open is cut.
type Revoked interface {
	Revoked(a v1alpha1.Agent) (reason string, revoked bool, err error)
	// Subscribe has f called after each change of what is revoked, or of whether
	// that can be known; never concurrently with itself.
	Subscribe(f func()) (cancel func())
}

// cutGrace is for the last words to a client whose stream is cut. One that
// doesn't read holds up nothing beyond it.
const cutGrace = time.Second

// cut is the cause of the end of a request that was under way.
type cut struct{ status *apierrors.StatusError }

// Error is what the client is told.
func (c *cut) Error() string { return c.status.Error() }

// cutOf is why ctx was cut, nil if it wasn't.
func cutOf(ctx context.Context) *cut {
	var c *cut
	if errors.As(context.Cause(ctx), &c) {
		return c
	}
	return nil
}

// refusal says why agent gets no answer (any more), nil if it may.
func (p *Proxy) refusal(a v1alpha1.Agent) *apierrors.StatusError {
	reason, revoked, err := p.revoked.Revoked(a)
	switch {
	case err != nil:
		return apierrors.NewServiceUnavailable("the proxy can't tell at present whether this run is revoked")
	case revoked:
		return apierrors.NewUnauthorized(fmt.Sprintf("run %q is revoked: %s", a.Run, reason))
	}
	return nil
}

// sweep cuts what agents that are revoked by now have under way.
func (p *Proxy) sweep() {
	n := 0
	for _, c := range p.running.all() {
		if why := p.refusal(c.agent); why != nil {
			c.cut(why)
			n++
		}
	}
	if n > 0 {
		p.log.Info("requests cut: their runs are revoked, or nobody can tell", "requests", n)
	}
}

// running are the requests under way, each from before it was last asked
// whether its agent is revoked until its answer has ended.
type running struct {
	mu        sync.Mutex
	exchanges map[*exchange]struct{}
	left      chan struct{} // of room for one: there may be fewer than before
}

// Run ends sessions and forwarded ports when ctx ends: a server that drains
// knows nothing of upgraded connections. They get a while to end by themselves.
func (p *Proxy) Run(ctx context.Context) error {
	<-ctx.Done()
	late := time.NewTimer(p.lastCall)
	defer late.Stop()
	for {
		open := p.running.upgraded()
		if len(open) == 0 {
			return nil
		}
		select {
		case <-p.running.left:
		case <-late.C:
			for _, x := range open {
				x.cut(apierrors.NewServiceUnavailable("the proxy is stopping: connect again"))
			}
		}
	}
}

// lastCall is how long sessions may go on when the proxy stops: so much that
// they end within the 20 s that requests get to be drained.
const lastCall = 15 * time.Second

// upgraded are the requests whose connections are upgraded.
func (r *running) upgraded() []*exchange {
	var open []*exchange
	for _, x := range r.all() {
		x.mu.Lock()
		if x.conn != nil {
			open = append(open, x)
		}
		x.mu.Unlock()
	}
	return open
}

// exchange is one of them.
type exchange struct {
	agent  v1alpha1.Agent
	cancel context.CancelCauseFunc

	mu   sync.Mutex
	ctrl *http.ResponseController // nil once the handler has returned: it must not be used then
	conn net.Conn                 // of an upgraded request
}

// hijackable is the response writer of a request that may be upgraded: its
// connection can be cut then too.
type hijackable struct {
	http.ResponseWriter
	x *exchange
}

// Unwrap is for http.ResponseController.
func (h hijackable) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// Hijack gives the connection to the caller (http.Hijacker).
func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err == nil {
		h.x.mu.Lock()
		h.x.conn = conn
		h.x.mu.Unlock()
	}
	return conn, rw, err
}

func (r *running) enter(a v1alpha1.Agent, w http.ResponseWriter, cancel context.CancelCauseFunc) *exchange {
	x := &exchange{agent: a, cancel: cancel, ctrl: http.NewResponseController(w)}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.exchanges == nil {
		r.exchanges = map[*exchange]struct{}{}
	}
	r.exchanges[x] = struct{}{}
	return x
}

func (r *running) leave(x *exchange) {
	r.mu.Lock()
	delete(r.exchanges, x)
	r.mu.Unlock()
	x.mu.Lock()
	x.ctrl = nil
	x.mu.Unlock()
	x.cancel(nil)
	select {
	case r.left <- struct{}{}:
	default:
	}
}

func (r *running) all() []*exchange {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.exchanges))
}

// cut ends the request at the API server; its handler says why and returns.
func (x *exchange) cut(why *apierrors.StatusError) {
	x.mu.Lock()
	switch {
	case x.conn != nil:
		_ = x.conn.SetDeadline(time.Now().Add(cutGrace)) // a connection that is closed already needs none
	case x.ctrl != nil:
		// A handler that is writing to a client that doesn't read is woken by this alone.
		_ = x.ctrl.SetWriteDeadline(time.Now().Add(cutGrace)) // every server of ours can; a writer in a test may not
	}
	x.mu.Unlock()
	x.cancel(&cut{why})
}

// untilCut passes nothing more on once ctx has ended, not even what has arrived.
type untilCut struct {
	ctx context.Context // the request's own, for as long as its body
	src io.Reader
}

// Read reads from the answer.
func (u *untilCut) Read(b []byte) (int, error) {
	n, err := u.src.Read(b)
	if ended := u.ctx.Err(); ended != nil {
		return 0, ended
	}
	return n, err
}

// cutBody is an answer's body that breaks off when its request is cut: an end
// that came only then must not look like the answer's own.
type cutBody struct {
	untilCut
	io.Closer
}

// lastEvent is the watch event that ends a watch with why (apimachinery,
// watch.Error): client-go gives it to its caller as an error of its type.
func lastEvent(why *apierrors.StatusError) []byte {
	status, err := json.Marshal(statusOf(why))
	if err != nil {
		return nil // a Status of ours always encodes; without it the stream just ends
	}
	ev := metav1.WatchEvent{Type: "ERROR"}
	ev.Object.Raw = status
	out, err := json.Marshal(ev)
	if err != nil {
		return nil // as above
	}
	return append(out, '\n')
}

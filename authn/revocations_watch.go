package authn

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Bounds of one request. The API server ends a watch after watchTime; one that
// it hasn't ended watchGrace later is dead, and is closed with its connection.
// The next goes on from where the last one stood (the API server sends a
// bookmark 2 s before it ends a watch), so that short watches miss nothing. Each
// that opens proves that the API server is there, through whatever balancer or
// proxy stands between: bookmarks come once a minute only, and pings and
// keep-alives end at the next hop.
const (
	watchTime  = 5 * time.Second
	watchGrace = 2 * time.Second
	listTime   = 10 * time.Second // ten thousand are about 5 MB
)

// shortWatches lists and watches revocations by requests that are bounded in
// time.
type shortWatches struct {
	client rest.Interface
	bound  time.Duration // of one watch
}

// hearing calls heard when the API server has answered. It sits at the
// transport since client-go gives an empty watch and no error where the
// connection broke or timed out (client-go, rest/request.go, Watch).
type hearing struct {
	http.RoundTripper
	heard func()
}

// RoundTrip sends one request.
func (h *hearing) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := h.RoundTripper.RoundTrip(r)
	if err == nil && resp.StatusCode == http.StatusOK {
		h.heard()
	}
	return resp, err
}

// WrappedRoundTripper lets client-go look through it.
func (h *hearing) WrappedRoundTripper() http.RoundTripper { return h.RoundTripper }

// IsWatchListSemanticsUnSupported keeps the reflector to lists and watches: a
// first watch that also lists would need a bound of its own.
func (s *shortWatches) IsWatchListSemanticsUnSupported() bool { return true }

// ListWithContext lists what stands now. The reflector asks for any state that a
// server has cached, which may miss what was revoked before a restart.
func (s *shortWatches) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	o.ResourceVersion, o.ResourceVersionMatch = "", ""
	l := &v1alpha1.RevocationList{}
	return l, s.client.Get().Resource("revocations").VersionedParams(&o, metav1.ParameterCodec).Do(ctx).Into(l)
}

// WatchWithContext opens one watch.
func (s *shortWatches) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	ctx, cancel := context.WithTimeout(ctx, s.bound)
	seconds := int64(watchTime / time.Second)
	o.Watch, o.TimeoutSeconds = true, &seconds
	w, err := s.client.Get().Resource("revocations").VersionedParams(&o, metav1.ParameterCodec).Watch(ctx)
	if err != nil {
		cancel()
		// Not wrapped: on a refused connection the reflector would back off by
		// itself, to 30 s.
		return nil, errors.New(err.Error())
	}
	return &shortWatch{Interface: w, cancel: cancel}, nil
}

// List and Watch make it a cache.ListerWatcher; the reflector calls those above.
func (s *shortWatches) List(o metav1.ListOptions) (runtime.Object, error) {
	return s.ListWithContext(context.Background(), o)
}

// Watch opens one watch.
func (s *shortWatches) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return s.WatchWithContext(context.Background(), o)
}

// shortWatch lets go of its context when it is stopped.
type shortWatch struct {
	watch.Interface
	cancel context.CancelFunc
}

// Stop ends the watch.
func (w *shortWatch) Stop() {
	w.Interface.Stop()
	w.cancel()
}

// subscribers are told of changes, each in a goroutine of its own.
type subscribers struct {
	mu    sync.Mutex
	wakes map[chan struct{}]struct{}
}

// notify never blocks. A subscriber that has a token already hasn't begun to
// look yet: it will see this change too.
func (s *subscribers) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for wake := range s.wakes {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

func (s *subscribers) add(f func()) (cancel func()) {
	wake, stop, done := make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	s.mu.Lock()
	if s.wakes == nil {
		s.wakes = map[chan struct{}]struct{}{}
	}
	s.wakes[wake] = struct{}{}
	s.mu.Unlock()
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-wake:
				f()
			}
		}
	}()
	return sync.OnceFunc(func() {
		s.mu.Lock()
		delete(s.wakes, wake)
		s.mu.Unlock()
		close(stop)
		<-done
	})
}

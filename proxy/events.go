package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/plugin/pkg/audit/buffered"

	"github.com/tipstaff-dev/tipstaff/internal/recording"
)

const (
	// maxEventBodyBytes bounds the body in an event. etcd takes objects up to
	// 1.5 MiB; what is larger than this is a blob.
	maxEventBodyBytes = 1 << 20
	// maxEventBodyDepth bounds how deep it nests. Real objects stay below 100,
	// what is deeper than 1,000 mask hides as a whole, and ingest reads no list
	// of events that is deeper than 10,000 (jsontext).
	maxEventBodyDepth = 1000
	// maxListBytes bounds one list of events. Ingest takes 32 MiB.
	maxListBytes = 8 << 20

	// maxEventsHeld and maxEventsHeldBytes bound the events that wait to be stored.
	// Bodies get half of the bytes: no agent's bodies push out an event.
	maxEventsHeld      = 10_000
	maxEventsHeldBytes = 64 << 20
	// eventBytes is what an event takes at least, names and groups included.
	eventBytes = 4 << 10
)

// annotationTruncated says that a body was left out, as at the API server
// (apiserver, plugin/pkg/audit/truncate) and at ingest.
const annotationTruncated = "audit.k8s.io/truncated"

var (
	errNoRoom   = errors.New("too many audit events wait to be stored")
	errStopped  = errors.New("the audit has stopped")
	errTooLarge = errors.New("the audit event is too large")
)

// queue holds events until they are stored. What it has no room for is lost
// here, and counted: the API server's own buffer would log such an event, with
// all of its URI.
type queue struct {
	buffer audit.Backend
	lost   func(why error, events ...*auditinternal.Event)

	most int // bytes

	closing sync.RWMutex // held to read while an event is put into buffer
	closed  bool

	mu    sync.Mutex
	count int
	bytes int
}

// newQueue gives a queue before to.
func newQueue(to *eventSink, batches buffered.BatchConfig) *queue {
	q := &queue{buffer: buffered.NewBackend(to, batches), lost: to.proxy.lost, most: maxEventsHeldBytes}
	to.done = q.leave
	return q
}

// Run sends events until stop is closed, and then what is there still.
func (q *queue) Run(stop <-chan struct{}) error {
	closed := make(chan struct{})
	go func() {
		<-stop
		q.closing.Lock()
		q.closed = true
		q.closing.Unlock()
		close(closed)
	}()
	return q.buffer.Run(closed)
}

// Shutdown waits until all is sent.
func (q *queue) Shutdown() { q.buffer.Shutdown() }

// String is the sink's name.
func (q *queue) String() string { return "tipstaff" }

// ProcessEvents takes events, or counts them as lost: nobody waits for them.
func (q *queue) ProcessEvents(events ...*auditinternal.Event) bool {
	q.closing.RLock()
	defer q.closing.RUnlock()
	for _, ev := range events {
		ev = bounded(ev)
		switch {
		case q.closed:
			q.lost(errStopped, ev)
		case q.enter(ev):
			q.buffer.ProcessEvents(ev)
		default:
			if ev = bodiless(ev); q.enter(ev) {
				q.buffer.ProcessEvents(ev)
			} else {
				q.lost(errNoRoom, ev)
			}
		}
	}
	return true
}

// enter makes room for ev, if there is any.
func (q *queue) enter(ev *auditinternal.Event) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	most := q.most
	if ev.RequestObject != nil {
		most /= 2
	}
	size := bytesOf(ev)
	if q.count == maxEventsHeld || q.bytes+size > most {
		return false
	}
	q.count++
	q.bytes += size
	return true
}

func (q *queue) leave(events []*auditinternal.Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, ev := range events {
		q.count--
		q.bytes -= bytesOf(ev)
	}
}

func bytesOf(ev *auditinternal.Event) int {
	n := eventBytes + len(ev.RequestURI) + len(ev.UserAgent)
	if ev.RequestObject != nil {
		n += len(ev.RequestObject.Raw)
	}
	return n
}

// bounded gives ev with the name that a new object's body says, as the API
// server does, and without a body that is too much for an event.
func bounded(ev *auditinternal.Event) *auditinternal.Event {
	if ev.RequestObject == nil {
		return ev
	}
	ev = named(ev)
	if raw := ev.RequestObject.Raw; len(raw) > maxEventBodyBytes || deeper(raw, maxEventBodyDepth) {
		ev = bodiless(ev)
	}
	return ev
}

// bodiless gives ev without its body.
func bodiless(ev *auditinternal.Event) *auditinternal.Event {
	if ev.RequestObject == nil {
		return ev
	}
	copied := *ev // the event's own is used again at the next stage, and so are its annotations
	copied.RequestObject = nil
	copied.Annotations = maps.Clone(ev.Annotations)
	if copied.Annotations == nil {
		copied.Annotations = map[string]string{}
	}
	copied.Annotations[annotationTruncated] = "true"
	return &copied
}

func named(ev *auditinternal.Event) *auditinternal.Event {
	if ev.ObjectRef == nil || ev.ObjectRef.Name != "" || ev.Verb != "create" {
		return ev
	}
	var obj metav1.PartialObjectMetadata
	if json.NewDecoder(bytes.NewReader(ev.RequestObject.Raw)).Decode(&obj) != nil || obj.Name == "" {
		return ev
	}
	copied, ref := *ev, *ev.ObjectRef // as above
	ref.Name = obj.Name
	copied.ObjectRef = &ref
	return &copied
}

// deeper reports whether raw, a JSON value, nests deeper than most.
func deeper(raw []byte, most int) bool {
	depth, text := 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case text && c == '\\':
			i++ // what it escapes
		case c == '"':
			text = !text
		case text:
		case c == '{' || c == '[':
			if depth++; depth > most {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// eventSink sends events to where they are kept.
type eventSink struct {
	to    Events
	tries wait.Backoff
	proxy *Proxy
	done  func([]*auditinternal.Event) // called with what is stored or lost, if not nil
}

var _ audit.Backend = &eventSink{}

// Run has nothing to begin.
func (*eventSink) Run(<-chan struct{}) error { return nil }

// Shutdown has nothing to wait for.
func (*eventSink) Shutdown() {}

// String is the sink's name.
func (*eventSink) String() string { return "tipstaff" }

// ProcessEvents returns true when all events are on disk.
func (s *eventSink) ProcessEvents(events ...*auditinternal.Event) (kept bool) {
	if s.done != nil {
		defer s.done(events)
	}
	if err := guarded(func() error { // the buffer's goroutines are not the server's
		kept = s.lists(events)
		return nil
	}); err != nil {
		s.proxy.lost(err, events...)
		return false
	}
	return kept
}

// written is an event as it is sent.
type written struct {
	event *auditinternal.Event
	raw   []byte
}

// lists sends events in lists that ingest takes.
func (s *eventSink) lists(events []*auditinternal.Event) bool {
	kept, size := true, 0
	var list []written
	for _, ev := range events {
		raw, err := encodeEvent(bounded(ev))
		if err == nil && len(raw) > maxListBytes {
			err = errTooLarge
		}
		if err != nil {
			s.proxy.lost(err, ev)
			kept = false
			continue
		}
		if size+len(raw) > maxListBytes {
			kept = s.store(list) && kept
			list, size = nil, 0
		}
		list, size = append(list, written{ev, raw}), size+len(raw)
	}
	return (len(list) == 0 || s.store(list)) && kept
}

// store sends one list. One that is refused is halved: what one event is
// refused for takes no other along.
func (s *eventSink) store(list []written) bool {
	err := s.send(list)
	if half := len(list) / 2; half > 0 && errors.Is(err, recording.ErrRefused) {
		first := s.store(list[:half])
		return s.store(list[half:]) && first
	}
	if err != nil {
		events := make([]*auditinternal.Event, len(list))
		for i := range list {
			events[i] = list[i].event
		}
		s.proxy.lost(err, events...)
	}
	return err == nil
}

// send tries until list is stored, or it makes no sense any more.
func (s *eventSink) send(list []written) error {
	var body bytes.Buffer
	body.WriteString(`{"kind":"EventList","apiVersion":"` + auditv1.SchemeGroupVersion.String() + `","metadata":{},"items":[`)
	for i, w := range list {
		if i > 0 {
			body.WriteByte(',')
		}
		body.Write(w.raw)
	}
	body.WriteString("]}")
	var last error
	err := wait.ExponentialBackoff(s.tries, func() (bool, error) {
		ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
		defer cancel()
		last = s.to.StoreEvents(ctx, body.Bytes())
		return last == nil || errors.Is(last, recording.ErrRefused), nil
	})
	if last != nil {
		return last
	}
	return err
}

// encodeEvent gives ev as the API server sends it.
func encodeEvent(ev *auditinternal.Event) ([]byte, error) {
	var out auditv1.Event
	if err := auditv1.Convert_audit_Event_To_v1_Event(ev, &out, nil); err != nil {
		return nil, fmt.Errorf("write an audit event: %w", err)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // a body of "<" would be six times as long
	if err := enc.Encode(out); err != nil {
		return nil, fmt.Errorf("write an audit event: %w", err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// lostEvery bounds how often it is logged that events are lost: agents ask more
// often than that.
const lostEvery = 10 * time.Second

// lost counts events that are not kept. Of what they hold only the audit id is logged.
func (p *Proxy) lost(why error, events ...*auditinternal.Event) {
	p.metrics.unaudited.Add(float64(len(events)))
	now, last := time.Now().UnixNano(), p.lostLogged.Load()
	if now-last >= int64(lostEvery) && p.lostLogged.CompareAndSwap(last, now) {
		p.log.Error("audit events lost: there may be more than these, tipstaff_proxy_audit_events_lost_total counts them", "events", len(events), "first", events[0].AuditID, "error", why)
	}
}

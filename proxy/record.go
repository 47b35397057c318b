package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/tipstaff-dev/tipstaff/internal/recording"
	"github.com/tipstaff-dev/tipstaff/mask"
)

// Sessions keeps recordings.
type Sessions interface {
	// StoreSession returns nil when p is on disk. The same piece may come twice.
	// recording.ErrRefused means that trying again is of no use.
	StoreSession(ctx context.Context, p *recording.Piece) error
}

// RecordWith has every exec and attach recorded by s. Where it isn't called, and
// the configuration doesn't say that none is to be, they are refused. It is called
// before the first request.
func (p *Proxy) RecordWith(s Sessions) { p.sessions = s }

const (
	// storeTimeout bounds one try to store a piece. Where none of them succeeds
	// the session ends: nothing passes that isn't recorded.
	storeTimeout = 5 * time.Second
	// maxPrinted bounds a text of the client's in a recording.
	maxPrinted = 4 << 10
)

// storeTries bridge a restart of what stores: six seconds and the tries themselves.
var storeTries = wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.1, Steps: 6}

// tape is a session's recording, written from both directions. What is written
// is on disk when keep returns: it comes before the bytes are passed on. nil
// keeps nothing.
type tape struct {
	to      Sessions
	tries   wait.Backoff
	session recording.Session
	start   time.Time // of the monotonic clock
	cut     func(*apierrors.StatusError)

	mu     sync.Mutex
	seq    uint32
	failed error
	ended  bool
}

// begin starts the recording of r's session, before anything of it reaches the
// API server: over WebSocket a command runs as soon as that answers.
func (p *Proxy) begin(r *http.Request, q *asked, scoped *mask.Scoped) (*tape, *apierrors.StatusError) {
	info := q.info
	if p.unrecorded {
		return nil, nil
	}
	if p.sessions == nil {
		return nil, forbidden(info, info.Subresource+" is recorded, and this proxy has nowhere to: its administrator names one in proxy.records, or turns recording off in proxy.sessions")
	}
	query := r.URL.Query()
	command, err := maskedCommand(scoped, query["command"])
	if err != nil {
		return nil, apierrors.NewBadRequest("the command can't be read")
	}
	var tty bool
	asked := query["tty"]
	_ = runtime.Convert_Slice_string_To_bool(&asked, &tty, nil) // as the API server reads it; never fails
	ip, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		ip = r.RemoteAddr
	}
	now := time.Now()
	t := &tape{to: p.sessions, tries: p.storeTries, start: now, cut: q.under.cut, session: recording.Session{
		ID: q.id, Started: now.UTC(), Agent: q.agent, Verb: info.Subresource,
		Namespace: info.Namespace, Pod: info.Name, Container: printed(query.Get("container")),
		Command: command, TTY: tty, SourceIP: ip, UserAgent: printed(r.UserAgent()),
	}}
	if _, err := (&recording.Piece{Session: t.session}).Encode(); err != nil {
		return nil, apierrors.NewBadRequest("the session can't be recorded, and was not begun: " + err.Error())
	}
	if err := t.store(r.Context(), nil); err != nil {
		p.log.WarnContext(r.Context(), "session refused: it can't be recorded", "error", err)
		return nil, notRecorded("it was not begun")
	}
	return t, nil
}

func notRecorded(so string) *apierrors.StatusError {
	return apierrors.NewServiceUnavailable("the session can't be recorded: " + so + ". Try again later.")
}

// printed gives the beginning of s, without what is no UTF-8: a sign in its place
// would be longer.
func printed(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxPrinted)], "") }

// maskedCommand masks a command as a container's arguments are.
func maskedCommand(scoped *mask.Scoped, command []string) ([]string, error) {
	if len(command) == 0 {
		return nil, nil
	}
	type container struct {
		Args []string `json:"args"`
	}
	type spec struct {
		Containers []container `json:"containers"`
	}
	type pod struct {
		Kind string `json:"kind"`
		Spec spec   `json:"spec"`
	}
	in, err := json.Marshal(pod{Kind: "Pod", Spec: spec{[]container{{command}}}})
	if err != nil {
		return nil, fmt.Errorf("write the command: %w", err)
	}
	var out bytes.Buffer
	if err := scoped.JSONOf(mask.Ref{Resource: "pods"}, &out, bytes.NewReader(in)); err != nil {
		return nil, fmt.Errorf("mask the command: %w", err)
	}
	var masked pod
	if err := json.Unmarshal(out.Bytes(), &masked); err != nil || len(masked.Spec.Containers) != 1 || len(masked.Spec.Containers[0].Args) != len(command) {
		return nil, errors.New("the masked command can't be read")
	}
	return masked.Spec.Containers[0].Args, nil
}

// store tries until frames are on disk, or it makes no sense any more.
func (t *tape) store(ctx context.Context, frames []recording.Frame) error {
	var last error
	err := wait.ExponentialBackoffWithContext(ctx, t.tries, func(ctx context.Context) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		last = t.to.StoreSession(ctx, &recording.Piece{Session: t.session, Frames: frames})
		return last == nil || errors.Is(last, recording.ErrRefused), nil
	})
	if last != nil {
		return last
	}
	return err
}

// keep records data of a stream. An error means that it isn't recorded: the
// session has been cut, and data must not be passed on.
func (t *tape) keep(of recording.Stream, data []byte) error {
	if t == nil || len(data) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed != nil || t.ended {
		return errNotKept
	}
	return t.write(context.Background(), of, data)
}

var errNotKept = errors.New("the session's recording has ended")

// write stores one frame. t.mu is held.
func (t *tape) write(ctx context.Context, of recording.Stream, data []byte) error {
	at := time.Since(t.start)
	var frames []recording.Frame
	for first := true; first || len(data) > 0; first = false {
		n := min(len(data), recording.MaxFrameBytes)
		t.seq++
		frames = append(frames, recording.Frame{Seq: t.seq, At: at, Stream: of, Data: data[:n]})
		data = data[n:]
	}
	if err := t.store(ctx, frames); err != nil {
		t.failed = err
		t.cut(notRecorded("it was ended"))
		return fmt.Errorf("record the session: %w", err)
	}
	return nil
}

// end closes the recording and says why the session ended; empty is by itself.
func (t *tape) end(why string) error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return nil
	}
	t.ended = true
	if t.failed != nil {
		return t.failed
	}
	return t.write(context.Background(), recording.End, []byte(why))
}

// kept gives a writer to what a stream's masked bytes go: they are recorded first.
func (t *tape) kept(of recording.Stream, pass func([]byte) error) func([]byte) error {
	if t == nil {
		return pass
	}
	return func(data []byte) error {
		if err := t.keep(of, data); err != nil {
			return err
		}
		return pass(data)
	}
}

// input records what a client sends to a command. It is told of it before it is
// passed on: a whole line is on disk by then, the beginning of one a moment later.
type input struct {
	text *output
	size sizes
	tape *tape
}

func newInput(t *tape, scoped *mask.Scoped) *input {
	if t == nil {
		return nil
	}
	return &input{
		tape: t, text: newOutput(new(sync.Mutex), scoped, func(data []byte) error { return t.keep(recording.Input, data) }),
		size: sizes{to: func(size string) error { return t.keep(recording.Size, []byte(size)) }},
	}
}

func (i *input) stdin(data []byte) error {
	if i == nil {
		return nil
	}
	return i.text.write(data)
}

func (i *input) resize(data []byte) error {
	if i == nil {
		return nil
	}
	return i.size.write(data)
}

// end records what is held back.
func (i *input) end() error {
	if i == nil {
		return nil
	}
	return i.text.drain()
}

// maxSizeBytes bounds one change of the terminal's size: two short numbers.
const maxSizeBytes = 1 << 10

// sizes reads the changes of a terminal's size, JSON values in any pieces. What
// can't be read isn't recorded: the kubelet ignores it, too.
type sizes struct {
	to   func(size string) error
	left []byte
}

func (z *sizes) write(p []byte) error {
	if z.left = append(z.left, p...); len(z.left) > maxSizeBytes {
		z.left = nil
	}
	for len(z.left) > 0 {
		d := json.NewDecoder(bytes.NewReader(z.left))
		var size struct{ Width, Height uint16 }
		err := d.Decode(&size)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			z.left = nil
			return nil
		}
		z.left = z.left[d.InputOffset():]
		if err := z.to(fmt.Sprintf("%dx%d", size.Width, size.Height)); err != nil {
			return err
		}
	}
	return nil
}

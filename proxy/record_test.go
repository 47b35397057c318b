package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/tipstaff-dev/tipstaff/internal/recording"
)

// shelf keeps recordings.
type shelf struct {
	mu       sync.Mutex
	sessions []recording.Session
	frames   []recording.Frame
	full     func(p *recording.Piece) bool // refuses a piece
	came     chan struct{}                 // of room for one
}

func newShelf() *shelf { return &shelf{came: make(chan struct{}, 1)} }

func (s *shelf) StoreSession(_ context.Context, p *recording.Piece) error {
	// What it is on the wire.
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if p, err = recording.Read(body); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full != nil && s.full(p) {
		return errors.New("the shelf is full")
	}
	if len(p.Frames) == 0 {
		s.sessions = append(s.sessions, p.Session)
	}
	s.frames = append(s.frames, p.Frames...)
	select {
	case s.came <- struct{}{}:
	default:
	}
	return nil
}

// text gives what one session carried on a stream.
func (s *shelf) text(of recording.Stream) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, f := range s.frames {
		if f.Stream == of {
			b.Write(f.Data)
		}
	}
	return b.String()
}

// ended gives why the session ended, once it has.
func (s *shelf) ended(t *testing.T) string {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		frames := slices.Clone(s.frames)
		s.mu.Unlock()
		if len(frames) > 0 && frames[len(frames)-1].Stream == recording.End {
			for i, f := range frames {
				if int(f.Seq) != i+1 {
					t.Errorf("frame %d has the number %d", i+1, f.Seq)
				}
			}
			return string(frames[len(frames)-1].Data)
		}
		select {
		case <-s.came:
		case <-limit:
			t.Fatal("the recording has no end")
		}
	}
}

func TestASessionIsRecordedMasked(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		const typed = "echo hi\nsecond line\n"
		s := stageFor(t, apiServer(t, func(c container) int {
			b := make([]byte, len(typed)+len("token "+planted+"\n"))
			if _, err := io.ReadFull(c.stdin, b); err != nil || string(b) != typed+"token "+planted+"\n" {
				t.Errorf("the command read %q: %v", b, err)
			}
			_, _ = io.WriteString(c.stdout, "hi "+planted+"\n")
			_, _ = io.WriteString(c.stderr, "an error\n")
			return 3
		}))
		in, typing := io.Pipe()
		defer func() { _ = typing.Close() }()
		go func() { _, _ = io.WriteString(typing, typed+"token "+planted+"\n") }()
		var stdout, stderr bytes.Buffer
		if err := s.run(t.Context(), t, dialect, remotecommand.StreamOptions{Stdin: in, Stdout: &stdout, Stderr: &stderr}); err == nil {
			t.Error("it should have failed with 3")
		}
		if why := s.shelf.ended(t); why != "" {
			t.Errorf("it ended because %q", why)
		}
		for of, want := range map[recording.Stream]string{
			recording.Input: typed + "token " + hidden + "\n", recording.Output: "hi " + hidden + "\n", recording.Errors: "an error\n",
		} {
			if got := s.shelf.text(of); got != want {
				t.Errorf("%s is recorded as %q, want %q", of, got, want)
			}
		}
		if code, told := recording.ExitCode([]byte(s.shelf.text(recording.Status))); !told || code != 3 {
			t.Errorf("exit code %d, %t", code, told)
		}
		if len(s.shelf.sessions) != 1 {
			t.Fatalf("%d sessions", len(s.shelf.sessions))
		}
		got := s.shelf.sessions[0]
		if got.Agent != agent || got.Verb != "exec" || got.Namespace != "a" || got.Pod != "p" || !slices.Equal(got.Command, []string{"cat", hidden}) ||
			got.TTY || got.SourceIP != "127.0.0.1" || time.Since(got.Started) > time.Minute {
			t.Errorf("the session is %+v", got)
		}
	})
}

// resized tells one size.
type resized struct{ sizes []remotecommand.TerminalSize }

func (r *resized) Next() *remotecommand.TerminalSize {
	if len(r.sizes) == 0 {
		return nil
	}
	size := r.sizes[0]
	r.sizes = r.sizes[1:]
	return &size
}

func TestATerminalsSizeIsRecorded(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		s := stageFor(t, apiServer(t, func(c container) int {
			var size struct{ Width, Height uint16 }
			for range 2 {
				if err := c.sizes.Decode(&size); err != nil {
					t.Error(err)
				}
			}
			_, _ = fmt.Fprintf(c.stdout, "%dx%d", size.Width, size.Height)
			return 0
		}))
		var stdout bytes.Buffer
		err := s.run(t.Context(), t, dialect, remotecommand.StreamOptions{
			Stdout: &stdout, Tty: true, TerminalSizeQueue: &resized{[]remotecommand.TerminalSize{{Width: 120, Height: 40}, {Width: 90, Height: 30}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if stdout.String() != "90x30" {
			t.Errorf("%q", &stdout)
		}
		s.shelf.ended(t)
		if got := s.shelf.text(recording.Size); got != "120x4090x30" || !s.shelf.sessions[0].TTY {
			t.Errorf("recorded %q, %+v", got, s.shelf.sessions[0])
		}
	})
}

var twoTries = wait.Backoff{Duration: time.Millisecond, Steps: 2}

func TestNothingPassesThatIsNotRecorded(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		reached := make(chan string, 1)
		s := stageFor(t, apiServer(t, func(c container) int {
			_, _ = io.WriteString(c.stdout, "first\n")
			b, _ := io.ReadAll(c.stdin)
			reached <- string(b)
			return 0
		}))
		s.p.storeTries = twoTries
		s.shelf.full = func(p *recording.Piece) bool {
			return len(p.Frames) > 0 && p.Frames[0].Stream == recording.Input
		}
		in, typing := io.Pipe()
		defer func() { _ = typing.Close() }()
		var once sync.Once
		out := writesTo(func(p []byte) (int, error) {
			once.Do(func() { go func() { _, _ = io.WriteString(typing, "rm -rf /data\n") }() })
			return len(p), nil
		})
		err := s.run(t.Context(), t, dialect, remotecommand.StreamOptions{Stdin: in, Stdout: out})
		if err == nil || !strings.Contains(err.Error(), "can't be recorded") {
			t.Errorf("the client was told %v", err)
		}
		if got := <-reached; got != "" {
			t.Errorf("unrecorded, %q reached the container", got)
		}
	})
}

func TestNothingIsShownThatIsNotRecorded(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		s := stageFor(t, apiServer(t, func(c container) int {
			_, _ = io.WriteString(c.stdout, "seen\n")
			return 0
		}))
		s.p.storeTries = twoTries
		s.shelf.full = func(p *recording.Piece) bool { return len(p.Frames) > 0 }
		var stdout bytes.Buffer
		err := s.run(t.Context(), t, dialect, remotecommand.StreamOptions{Stdout: &stdout})
		if err == nil || stdout.Len() > 0 {
			t.Errorf("%q was shown: %v", &stdout, err)
		}
	})
}

func TestASessionThatCannotBeRecordedIsRefused(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		for name, c := range map[string]struct {
			set  func(*stage)
			want string
		}{
			"the shelf is full": {func(s *stage) { s.shelf.full = func(*recording.Piece) bool { return true } }, "not begun"},
			"there is no shelf": {func(s *stage) { s.p.sessions = nil }, "proxy.records"},
		} {
			s := stageFor(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the API server was asked") }))
			s.p.storeTries = twoTries
			c.set(s)
			if err := s.run(t.Context(), t, dialect, remotecommand.StreamOptions{Stdout: io.Discard}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v", name, err)
			}
		}
	})
}

func TestASessionThatIsTooMuchToRecordIsRefused(t *testing.T) {
	t.Parallel()
	srv, _ := front(t, mustNotCall(t))
	resp, body := call(t, srv, "GET", "/api/v1/namespaces/a/pods/p/exec?stdout=true"+strings.Repeat("&command=x", 1025),
		http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {channelV5}}, "")
	if resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, "the command is too long") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// What is no UTF-8 grows where it is written, and would be too long there.
func TestAClientsNameIsCutToWhatCanBeRecorded(t *testing.T) {
	t.Parallel()
	s := stageFor(t, http.NotFoundHandler())
	resp, body := call(t, s.srv, "GET", "/api/v1/namespaces/a/pods/p/exec?command=x",
		http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {channelV5}, "User-Agent": {strings.Repeat("a\xff", 8<<10)}}, "")
	if got := s.shelf.sessions; resp.StatusCode == http.StatusBadRequest || len(got) != 1 || got[0].UserAgent != strings.Repeat("a", 2<<10) {
		t.Errorf("%d %s, sessions %+v", resp.StatusCode, body, got)
	}
}

func TestARefusedPieceIsNotTriedAgain(t *testing.T) {
	t.Parallel()
	tries := 0
	tape := fuzzTape(nil)
	tape.to, tape.tries = shelfFunc(func() error { tries++; return fmt.Errorf("no: %w", recording.ErrRefused) }), storeTries
	if err := tape.keep(recording.Input, []byte("x")); !errors.Is(err, recording.ErrRefused) || tries != 1 {
		t.Errorf("%d tries: %v", tries, err)
	}
}

type shelfFunc func() error

func (f shelfFunc) StoreSession(context.Context, *recording.Piece) error { return f() }

func TestSessionsPassUnrecordedWhereTheConfigurationSaysSo(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		s := stageFor(t, apiServer(t, func(c container) int {
			_, _ = io.WriteString(c.stdout, "a "+planted)
			return 0
		}))
		s.p.unrecorded = SessionsConfig{Record: new(bool)}.unrecorded()
		var stdout bytes.Buffer
		if err := s.run(t.Context(), t, dialect, remotecommand.StreamOptions{Stdout: &stdout}); err != nil {
			t.Fatal(err)
		}
		if stdout.String() != "a "+hidden {
			t.Errorf("%q", &stdout)
		}
		if len(s.shelf.sessions)+len(s.shelf.frames) > 0 {
			t.Error("it was recorded")
		}
	})
}

func TestARecordingSaysWhyASessionEnded(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		for want, answer := range map[string]http.HandlerFunc{
			"not begun: the API server answered 403": func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusForbidden)
				_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":403}`)
			},
			"the API server gave no answer": func(w http.ResponseWriter, _ *http.Request) {
				panic(http.ErrAbortHandler)
			},
		} {
			s := stageFor(t, answer)
			_ = s.run(t.Context(), t, dialect, remotecommand.StreamOptions{Stdout: io.Discard})
			if got := s.shelf.ended(t); got != want {
				t.Errorf("it ended because %q, want %q", got, want)
			}
		}
		begun := make(chan struct{})
		s := stageFor(t, apiServer(t, func(c container) int {
			_, _ = io.WriteString(c.stdout, "begun\n")
			_, _ = io.Copy(io.Discard, c.stdin)
			return 0
		}))
		in, typing := io.Pipe()
		defer func() { _ = typing.Close() }()
		var once sync.Once
		out := writesTo(func(p []byte) (int, error) { once.Do(func() { close(begun) }); return len(p), nil })
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = s.run(t.Context(), t, dialect, remotecommand.StreamOptions{Stdin: in, Stdout: out})
		}()
		<-begun
		s.revs.set(map[string]string{agent.Run: "enough"}, nil)
		s.revs.f()
		<-done
		if got := s.shelf.ended(t); !strings.Contains(got, "is revoked: enough") {
			t.Errorf("it ended because %q", got)
		}
	})
}

func TestASessionHasItsRequestsAuditID(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		var mu sync.Mutex
		var ids []string
		inner := apiServer(t, func(container) int { return 0 })
		s := stageFor(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			ids = append(ids, r.Header.Get("Audit-ID"))
			mu.Unlock()
			inner.ServeHTTP(w, r)
		}))
		if err := s.run(t.Context(), t, dialect, remotecommand.StreamOptions{Stdout: io.Discard}); err != nil {
			t.Fatal(err)
		}
		if len(ids) != 1 || len(s.shelf.sessions) != 1 || ids[0] != s.shelf.sessions[0].ID {
			t.Errorf("audit ids %q, sessions %+v", ids, s.shelf.sessions)
		}
	})
}

func TestSessionsEndWhenTheProxyStops(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		begun := make(chan struct{})
		s := stageFor(t, apiServer(t, func(c container) int {
			_, _ = io.WriteString(c.stdout, "begun\n")
			_, _ = io.Copy(io.Discard, c.stdin)
			return 0
		}))
		s.p.lastCall = 0
		in, typing := io.Pipe()
		defer func() { _ = typing.Close() }()
		var once sync.Once
		out := writesTo(func(p []byte) (int, error) { once.Do(func() { close(begun) }); return len(p), nil })
		ended := make(chan error, 1)
		go func() { ended <- s.run(t.Context(), t, dialect, remotecommand.StreamOptions{Stdin: in, Stdout: out}) }()
		<-begun
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if err := s.p.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "the proxy is stopping") {
			t.Errorf("the client was told %v", err)
		}
		if got := s.shelf.ended(t); !strings.Contains(got, "the proxy is stopping") {
			t.Errorf("it ended because %q", got)
		}
	})
}

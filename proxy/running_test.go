package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// watches answers every watch with one event and then nothing, and says when
// the proxy has let go of one.
func watches(gone chan<- string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"type":"ADDED","object":{"kind":"ConfigMap","metadata":{"name":"first"}}}`+"\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		gone <- r.Header.Get("Impersonate-Extra-Tipstaff.dev%2frun")
	}
}

// open starts a request and gives its answer when that begins.
func open(t *testing.T, srv *httptest.Server, token, path string) (*http.Response, *bufio.Reader) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp, bufio.NewReader(resp.Body)
}

func line(t *testing.T, r *bufio.Reader, want string) {
	t.Helper()
	got, err := r.ReadString('\n')
	if err != nil || !strings.Contains(got, want) {
		t.Fatalf("got %q %v, want %q", got, err, want)
	}
}

// idle waits until no request is under way.
func idle(t testing.TB, p *Proxy, want int) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); len(p.running.all()) != want; <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("%d requests are under way, want %d", len(p.running.all()), want)
		}
	}
}

func TestI9_AnOpenWatchEndsWithItsRun(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		for _, tc := range []struct {
			name string
			runs map[string]string
			err  error
			code int32
			says string
		}{
			{"revoked", map[string]string{"r1": "it went astray"}, nil, 401, `run "r1" is revoked: it went astray`},
			{"nobody can tell", nil, errors.New("stale"), 503, "can't tell"},
		} {
			t.Run(fmt.Sprint(tc.name, ", HTTP/2: ", http2), func(t *testing.T) {
				t.Parallel()
				gone := make(chan string, 2)
				p, revs := before(t, watches(gone), twoTokens{})
				srv := httptest.NewUnstartedServer(p.Handler())
				srv.EnableHTTP2 = http2
				srv.StartTLS()
				t.Cleanup(srv.Close)
				_, stays := open(t, srv, "other", "/api/v1/configmaps?watch=1")
				line(t, stays, "first")
				resp, ends := open(t, srv, "good", "/api/v1/configmaps?watch=1")
				if (resp.ProtoMajor == 2) != http2 {
					t.Fatal(resp.Proto)
				}
				line(t, ends, "first")
				revs.f() // of somebody else's revocation

				revs.set(tc.runs, tc.err)
				revs.f()
				last, err := ends.ReadBytes('\n')
				if err != nil {
					t.Fatal(err)
				}
				var ev metav1.WatchEvent
				var status metav1.Status
				if err := json.Unmarshal(last, &ev); err != nil || ev.Type != "ERROR" || json.Unmarshal(ev.Object.Raw, &status) != nil ||
					status.Code != tc.code || status.Kind != "Status" || !strings.Contains(status.Message, tc.says) {
					t.Errorf("the last event is %s", last)
				}
				if more, err := io.ReadAll(ends); err != nil || len(more) > 0 {
					t.Errorf("then: %q %v", more, err)
				}
				if tc.err != nil {
					line(t, stays, "can't tell") // for nobody
					idle(t, p, 0)
					return
				}
				if run := <-gone; run != "r1" {
					t.Errorf("the watch of %s was ended", run)
				}
				idle(t, p, 1)
				if resp, _ := open(t, srv, "good", "/api/v1/configmaps?watch=1"); resp.StatusCode != http.StatusUnauthorized {
					t.Errorf("it is opened again: %d", resp.StatusCode)
				}
			})
		}
	}
}

func TestI9_RequestsUnderWayAreCut(t *testing.T) {
	t.Parallel()
	begun := make(chan struct{})
	p, revs := before(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/secrets" || r.URL.Path == "/api/v1/configmaps" {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"kind":"List","items":[{"metadata":{"name":"s"}},`)
			w.(http.Flusher).Flush()
		}
		if r.URL.Path == "/openapi/v2" {
			_, _ = io.WriteString(w, `{`)
			w.(http.Flusher).Flush()
		}
		if r.URL.Path == "/api/v1/pods" || r.URL.Path == "/api/v1/configmaps" {
			begun <- struct{}{}
		}
		<-r.Context().Done()
	}, twoTokens{})
	srv := httptest.NewServer(p.Handler())
	t.Cleanup(srv.Close)
	var group sync.WaitGroup
	for path, says := range map[string]string{
		"/api/v1/secrets": "", // its answer has begun: it breaks off
		"/openapi/v2":     "",
		"/api/v1/pods":    "is revoked: it went astray",
		// Compressed, it begins when there is some of it.
		"/api/v1/configmaps": "is revoked: it went astray",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer good")
		if says == "" {
			req.Header.Set("Accept-Encoding", "identity") // else Go's client asks for gzip
		}
		group.Go(func() {
			resp, err := srv.Client().Do(req)
			var b []byte
			code := 0
			if err == nil {
				if says == "" {
					begun <- struct{}{}
				}
				code = resp.StatusCode
				b, err = io.ReadAll(resp.Body)
				_ = resp.Body.Close()
			}
			if says == "" && err == nil {
				t.Errorf("%s: a whole answer: %d %s", path, code, b)
			}
			if says != "" && (err != nil || code != http.StatusUnauthorized || !strings.Contains(string(b), says)) {
				t.Errorf("%s: %d %s %v", path, code, b, err)
			}
		})
		<-begun
	}
	revs.set(map[string]string{"r1": "it went astray"}, nil)
	revs.f()
	group.Wait()
	idle(t, p, 0)
}

// TestI9_AClientThatDoesNotReadIsCut: its handler hangs in a write, which no
// context ends.
func TestI9_AClientThatDoesNotReadIsCut(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		stuck := make(chan struct{})
		var once sync.Once
		event := []byte(`{"type":"ADDED","object":{"kind":"ConfigMap","data":{"k":"` + strings.Repeat("x", 1<<20) + `"}}}` + "\n")
		p, revs := before(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for {
				written := make(chan error, 1)
				go func() { _, err := w.Write(event); written <- err }()
				select {
				case err := <-written:
					if err != nil {
						return
					}
				case <-time.After(200 * time.Millisecond): // nobody takes it any more
					once.Do(func() { close(stuck) })
					if <-written != nil {
						return
					}
				}
			}
		}, twoTokens{})
		srv := httptest.NewUnstartedServer(p.Handler())
		srv.EnableHTTP2 = http2
		srv.StartTLS()
		t.Cleanup(srv.Close)
		open(t, srv, "good", "/api/v1/configmaps?watch=1")
		<-stuck
		revs.set(map[string]string{"r1": "it went astray"}, nil)
		revs.f()
		idle(t, p, 0)
	}
}

// lateRevocation revokes the run after its token was taken, when the
// subscriber has been told already.
type lateRevocation struct{ revs *revocations }

func (l *lateRevocation) Authenticate(context.Context, string) (v1alpha1.Agent, error) {
	l.revs.set(map[string]string{"r1": "it went astray"}, nil)
	l.revs.f()
	return agent, nil
}

func TestI9_ARevocationBetweenTokenAndRequestIsSeen(t *testing.T) {
	t.Parallel()
	auth := &lateRevocation{}
	p, revs := before(t, mustNotCall(t), auth)
	auth.revs = revs
	srv := httptest.NewServer(p.Handler())
	t.Cleanup(srv.Close)
	resp, body := call(t, srv, "GET", "/api/v1/pods", nil, "")
	if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "it went astray") {
		t.Errorf("got %d %s", resp.StatusCode, body)
	}
	idle(t, p, 0)
}

// TestTheLastEventStandsAlone: after part of a value it would be read as its rest.
func TestTheLastEventStandsAlone(t *testing.T) {
	t.Parallel()
	p, _ := before(t, mustNotCall(t), twoTokens{})
	scoped := p.masker.Scope(agent.Key())
	info := &request.RequestInfo{Verb: "watch", Resource: "pods"}
	broken := errors.New("cut")
	for _, tc := range []struct {
		name, src, want string
		err             bool
	}{
		{"between two events", `{"type":"ADDED","object":{}}`, `{"type":"ADDED","object":{}}` + "\nLAST", false},
		{"before the first", ``, "LAST", false},
		{"within an event, of which nothing was passed on", `{"type":"ADDED","object":{}}{"type":"ADD`, `{"type":"ADDED","object":{}}` + "\nLAST", false},
		{"within a list that is passed on as it comes", `{"kind":"PodList","items":[{"a":1},`, "", true},
	} {
		var out bytes.Buffer
		err := maskInto(&out, io.MultiReader(strings.NewReader(tc.src), failingReader{broken}), scoped, info, func() []byte { return []byte("LAST") })
		if (err != nil) != tc.err || !tc.err && out.String() != tc.want || strings.Contains(out.String(), "LAST") == tc.err {
			t.Errorf("%s: %q %v", tc.name, &out, err)
		}
	}
}

// TestI9_NothingIsReadAfterTheCut, not even what has arrived already.
func TestI9_NothingIsReadAfterTheCut(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	u := &untilCut{ctx, strings.NewReader("one two")}
	b := make([]byte, 4)
	if n, err := u.Read(b); n != 4 || err != nil {
		t.Errorf("before the cut: %d %v", n, err)
	}
	cancel(&cut{apierrors.NewUnauthorized("revoked")})
	if n, err := u.Read(b); n != 0 || err == nil {
		t.Errorf("after the cut: %q", b[:n])
	}
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

func TestI1_OnlyOneAgentsRunIsImpersonated(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		a    v1alpha1.Agent
	}{
		{"nobody", v1alpha1.Agent{}},
		{"a person", v1alpha1.Agent{User: "alice", Issuer: "demo", Run: "r1"}},
		{"a part of Kubernetes", v1alpha1.Agent{User: "system:admin", Issuer: "demo", Run: "r1"}},
		{"no run", v1alpha1.Agent{User: "agent:demo:bot", Issuer: "demo"}},
		{"no issuer", v1alpha1.Agent{User: "agent::bot", Run: "r1"}},
		{"another issuer's name", v1alpha1.Agent{User: "agent:demo:bot", Issuer: "ci", Run: "r1"}},
		{"an issuer with a colon, whose run is another's", v1alpha1.Agent{User: "agent:demo:x:bot", Issuer: "demo:x", Run: "r1"}},
		{"a run that a header makes another", v1alpha1.Agent{User: "agent:demo:bot", Issuer: "demo", Run: "r1 "}},
		{"a name that a header makes another", v1alpha1.Agent{User: "agent:demo:bot\t", Issuer: "demo", Run: "r1"}},
		{"an owner that a header makes another", v1alpha1.Agent{User: "agent:demo:bot", Issuer: "demo", Run: "r1", Owner: " ann"}},
		{"a task that ends its header", v1alpha1.Agent{User: "agent:demo:bot", Issuer: "demo", Run: "r1", Task: "a\r\nImpersonate-Group: system:masters"}},
	} {
		if c, err := impersonation(tc.a); err == nil {
			t.Errorf("%s: %+v", tc.name, c)
		}
	}
	c, err := impersonation(agent)
	if err != nil || c.UserName != agent.User || len(c.Groups) != 6 {
		t.Errorf("an agent: %+v %v", c, err)
	}
}

// BenchmarkSweep is what each change of revocations costs with 5,000 open watches.
func BenchmarkSweep(b *testing.B) {
	p, revs := before(b, func(http.ResponseWriter, *http.Request) {}, twoTokens{})
	for range 5000 {
		p.running.enter(agent, httptest.NewRecorder(), func(error) { b.Error("cut") })
	}
	for b.Loop() {
		revs.f()
	}
}

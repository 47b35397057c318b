package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	constants "k8s.io/apimachinery/pkg/util/remotecommand"
	apiproxy "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/tipstaff-dev/tipstaff/mask"
)

// hidden stands in the place of what is planted.
var hidden = func() string {
	m, err := mask.New(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		panic(err) // the key is long enough
	}
	return m.Scope(agent.Key()).String(planted)
}()

// process is what runs in the container. What it returns is its exit code.
type process func(c container) int

type container struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	sizes          *json.Decoder
	// die ends the connection without a word.
	die func()
	// status is what how it ended is written to, and conn the connection below.
	status io.Closer
	conn   net.Conn
}

// hijacked is a response writer whose connection can be had.
type hijacked struct {
	http.ResponseWriter
	conn net.Conn
}

func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.conn = conn
	return conn, rw, err
}

// nodeOf runs a process for each connection over SPDY, as a kubelet does.
func nodeOf(run process) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		version, err := httpstream.Handshake(r, w, []string{constants.StreamProtocolV4Name, constants.StreamProtocolV3Name})
		if err != nil {
			return
		}
		opened := make(chan httpstream.Stream, 8)
		h := &hijacked{ResponseWriter: w}
		conn := spdy.NewResponseUpgrader().UpgradeResponse(h, r, func(s httpstream.Stream, _ <-chan struct{}) error {
			opened <- s
			return nil
		})
		if conn == nil {
			return
		}
		defer func() { _ = conn.Close() }()
		want := map[string]bool{"error": true}
		for _, name := range []string{"stdin", "stdout", "stderr"} {
			if r.URL.Query().Get(name) == "true" {
				want[name] = true
			}
		}
		if r.URL.Query().Get("tty") == "true" {
			want["resize"] = true
		}
		streams := map[string]httpstream.Stream{}
		for len(streams) < len(want) {
			select {
			case s := <-opened:
				streams[s.Headers().Get("streamType")] = s
			case <-conn.CloseChan():
				return
			}
		}
		c := container{die: func() { _ = conn.Close() }, status: streams["error"], conn: h.conn}
		for name, s := range streams {
			switch name {
			case "stdin":
				c.stdin = s
			case "stdout":
				c.stdout = s
			case "stderr":
				c.stderr = s
			case "resize":
				c.sizes = json.NewDecoder(s)
			}
		}
		if code := run(c); code != 0 || version != constants.StreamProtocolV3Name { // whose success is silent
			_, _ = streams["error"].Write(exited(code))
		}
		_ = streams["error"].Close()
		// A client that is slow loses what it hasn't read when this closes first, and
		// takes the command for a success all the same (moby/spdystream).
		for name, s := range streams {
			if name == "stdout" || name == "stderr" {
				_ = s.Close()
			}
		}
		<-conn.CloseChan() // it has read all and goes
	})
}

func exited(code int) []byte {
	status := metav1.Status{Status: metav1.StatusSuccess}
	if code != 0 {
		status = metav1.Status{
			Status: metav1.StatusFailure, Reason: constants.NonZeroExitCodeReason, Message: "it said " + planted,
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: constants.ExitCodeCauseType, Message: fmt.Sprint(code)}}},
		}
	}
	b, _ := json.Marshal(status)
	return b
}

// legacy runs a process for each connection over WebSocket v4, as kubelets do
// for API servers that don't translate.
func legacy(run process) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{constants.StreamProtocolV4Name: {
			Binary:   true,
			Channels: []wsstream.ChannelType{wsstream.ReadChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.ReadChannel},
		}})
		_, streams, err := conn.Open(w, r)
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		// As a kubelet: an empty message on each channel that it writes to.
		for _, s := range streams[1:4] {
			_, _ = s.Write(nil)
		}
		code := run(container{stdin: streams[0], stdout: streams[1], stderr: streams[2], sizes: json.NewDecoder(streams[4]), die: func() { _ = conn.Close() }})
		_, _ = streams[3].Write(exited(code))
	})
}

// apiServer passes exec on as the API server does, over each protocol.
func apiServer(t *testing.T, run process) http.Handler {
	t.Helper()
	node := httptest.NewServer(nodeOf(run))
	t.Cleanup(node.Close)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Impersonate-User") != agent.User || r.Header.Get("Authorization") != "Bearer proxys-own" {
			t.Errorf("not as the agent: %v", r.Header)
		}
		q := r.URL.Query()
		switch {
		case wsstream.IsWebSocketRequestWithStreamCloseProtocol(r):
			at, err := url.Parse(node.URL + r.URL.RequestURI())
			if err != nil {
				t.Error(err)
			}
			opts := apiproxy.Options{Stdin: q.Get("stdin") == "true", Stdout: q.Get("stdout") == "true", Stderr: q.Get("stderr") == "true", Tty: q.Get("tty") == "true"}
			apiproxy.NewStreamTranslatorHandler(at, http.DefaultTransport, 0, opts).ServeHTTP(w, r)
		case wsstream.IsWebSocketRequest(r):
			legacy(run).ServeHTTP(w, r)
		default:
			nodeOf(run).ServeHTTP(w, r)
		}
	})
}

// stage is a proxy between an agent and an API server, both over TLS and, where
// that can be, HTTP/2.
type stage struct {
	p     *Proxy
	revs  *revocations
	srv   *httptest.Server
	shelf *shelf
}

func stageFor(t testing.TB, backend http.Handler) *stage {
	t.Helper()
	up := httptest.NewUnstartedServer(backend)
	up.EnableHTTP2 = true
	up.StartTLS()
	t.Cleanup(up.Close)
	masker, err := mask.New(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{revs: &revocations{}}
	s.p, err = New(Config{}, &rest.Config{Host: up.URL, BearerToken: "proxys-own", TLSClientConfig: rest.TLSClientConfig{CAData: caOf(up)}},
		twoTokens{}, s.revs, masker, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s.shelf = newShelf()
	s.p.RecordWith(s.shelf)
	// The proxy has seen the Secret.
	if err := masker.Scope("any").JSON(io.Discard, strings.NewReader(`{"kind":"Secret","stringData":{"k":"`+planted+`"}}`)); err != nil {
		t.Fatal(err)
	}
	s.srv = httptest.NewUnstartedServer(s.p.Handler())
	s.srv.EnableHTTP2 = true
	s.srv.StartTLS()
	t.Cleanup(s.srv.Close)
	return s
}

func caOf(srv *httptest.Server) []byte {
	return []byte("-----BEGIN CERTIFICATE-----\n" + base64.StdEncoding.EncodeToString(srv.Certificate().Raw) + "\n-----END CERTIFICATE-----\n")
}

// dialects are the ways in which clients run commands.
var dialects = []string{"WebSocket v5", "WebSocket v4", "SPDY"}

func (s *stage) executor(t testing.TB, dialect, verb string, o remotecommand.StreamOptions) remotecommand.Executor {
	t.Helper()
	q := url.Values{"command": {"cat", planted}}
	for name, on := range map[string]bool{"stdin": o.Stdin != nil, "stdout": o.Stdout != nil, "stderr": o.Stderr != nil, "tty": o.Tty} {
		if on {
			q.Set(name, "true")
		}
	}
	at, err := url.Parse(s.srv.URL + "/api/v1/namespaces/a/pods/p/" + verb + "?" + q.Encode())
	if err != nil {
		t.Fatal(err)
	}
	config := &rest.Config{Host: s.srv.URL, BearerToken: "good", TLSClientConfig: rest.TLSClientConfig{CAData: caOf(s.srv)}}
	var e remotecommand.Executor
	switch dialect {
	case "WebSocket v5":
		e, err = remotecommand.NewWebSocketExecutorForProtocols(config, "GET", at.String(), constants.StreamProtocolV5Name)
	case "WebSocket v4":
		e, err = remotecommand.NewWebSocketExecutorForProtocols(config, "GET", at.String(), constants.StreamProtocolV4Name)
	default:
		e, err = remotecommand.NewSPDYExecutor(config, "POST", at)
	}
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (s *stage) run(ctx context.Context, t testing.TB, dialect string, o remotecommand.StreamOptions) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute) // a machine can be busy
	defer cancel()
	return s.executor(t, dialect, "exec", o).StreamWithContext(ctx, o)
}

// each runs f as a test for every dialect.
func each(t *testing.T, f func(t *testing.T, dialect string)) {
	t.Helper()
	t.Parallel()
	for _, d := range dialects {
		t.Run(d, func(t *testing.T) {
			t.Parallel()
			f(t, d)
		})
	}
}

func TestI7_WhatACommandPrintsIsMasked(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		s := stageFor(t, apiServer(t, func(c container) int {
			for _, part := range []string{"a " + planted + " b ", planted[:4], planted[4:], " c hun"} {
				_, _ = io.WriteString(c.stdout, part)
			}
			for i := range planted {
				_, _ = io.WriteString(c.stderr, planted[i:i+1])
			}
			return 7
		}))
		var stdout, stderr bytes.Buffer
		err := s.run(t.Context(), t, dialect, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
		if exit := (exec.CodeExitError{}); !errors.As(err, &exit) || exit.Code != 7 {
			t.Fatalf("it ended with %v", err) // both may be written to still
		}
		if stdout.String() != "a "+hidden+" b "+hidden+" c hun" || stderr.String() != hidden {
			t.Errorf("stdout %q, stderr %q", &stdout, &stderr)
		}
	})
}

func TestLargeOutputIsTheSame(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		want := make([]byte, 10<<20)
		for i := range want {
			want[i] = byte(i * 7 >> 3)
		}
		s := stageFor(t, apiServer(t, func(c container) int {
			_, _ = io.Copy(c.stdout, struct{ io.Reader }{bytes.NewReader(want)})
			return 0
		}))
		var stdout bytes.Buffer
		if err := s.run(t.Context(), t, dialect, remotecommand.StreamOptions{Stdout: &stdout}); err != nil {
			t.Fatal(err) // it may be written to still
		}
		if !bytes.Equal(stdout.Bytes(), want) {
			t.Errorf("%d of %d bytes, or others", stdout.Len(), len(want))
		}
	})
}

func TestStdinReachesTheContainerAsItIs(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		want := strings.Repeat("x"+planted, 100_000)
		const end = "\nEND\n" // v4 has no sign for it over WebSocket
		got := make(chan string, 1)
		s := stageFor(t, apiServer(t, func(c container) int {
			var all bytes.Buffer
			b := make([]byte, 8<<10)
			for dialect != "WebSocket v4" || !strings.HasSuffix(all.String(), end) {
				n, err := c.stdin.Read(b)
				all.Write(b[:n])
				if err != nil {
					break
				}
			}
			got <- all.String()
			return 0
		}))
		err := s.run(t.Context(), t, dialect, remotecommand.StreamOptions{Stdin: strings.NewReader(want + end), Stdout: io.Discard})
		if err != nil {
			t.Fatal(err)
		}
		if g := <-got; g != want+end {
			t.Errorf("%d bytes came, want %d", len(g), len(want+end))
		}
	})
}

func TestAdmissionAnswersBeforeTheUpgrade(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		s := stageFor(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"exec is denied by a rule","reason":"Forbidden","code":403}`)
		}))
		err := s.run(t.Context(), t, dialect, remotecommand.StreamOptions{Stdout: io.Discard})
		if err == nil || !strings.Contains(err.Error(), "exec is denied by a rule") {
			t.Errorf("got %v", err)
		}
	})
}

func TestI9_ARevocationCutsASession(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		for _, busy := range []bool{false, true} {
			begun, ended := make(chan struct{}), make(chan struct{})
			s := stageFor(t, apiServer(t, func(c container) int {
				defer close(ended)
				_, _ = io.WriteString(c.stdout, "begun")
				if busy {
					for {
						if _, err := io.WriteString(c.stdout, strings.Repeat("x", 10_000)); err != nil {
							return 0
						}
					}
				}
				_, _ = io.Copy(io.Discard, c.stdin) // until the connection ends
				return 0
			}))
			in, typed := io.Pipe()
			t.Cleanup(func() { _ = typed.Close() })
			var once sync.Once
			out := writesTo(func(p []byte) (int, error) { once.Do(func() { close(begun) }); return len(p), nil })
			failed := make(chan error, 1)
			go func() { failed <- s.run(t.Context(), t, dialect, remotecommand.StreamOptions{Stdin: in, Stdout: out}) }()
			<-begun
			s.revs.set(map[string]string{"r1": "it went astray"}, nil)
			at := time.Now()
			s.revs.f()
			err := <-failed
			// A client that is behind may only see the end.
			if !busy && (err == nil || !strings.Contains(err.Error(), "it went astray")) {
				t.Errorf("busy %t: the client is told %v", busy, err)
			}
			<-ended
			idle(t, s.p, 0)
			if took := time.Since(at); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
		}
	})
}

type writesTo func([]byte) (int, error)

func (f writesTo) Write(p []byte) (int, error) { return f(p) }

// TestI9_ASessionWhoseClientDoesNotReadIsCut: its copy hangs in a write.
func TestI9_ASessionWhoseClientDoesNotReadIsCut(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		ended, stuck := make(chan struct{}), make(chan struct{})
		s := stageFor(t, apiServer(t, func(c container) int {
			defer close(ended)
			wrote := make(chan error)
			go func() {
				for {
					_, err := io.WriteString(c.stdout, strings.Repeat("x", 32_000))
					wrote <- err
					if err != nil {
						return
					}
				}
			}()
			for {
				select {
				case err := <-wrote:
					if err != nil {
						return 0
					}
				case <-time.After(300 * time.Millisecond): // nobody takes it any more
					close(stuck)
					for err := range wrote {
						if err != nil {
							return 0
						}
					}
				}
			}
		}))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		out := writesTo(func([]byte) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		go func() { _ = s.run(ctx, t, dialect, remotecommand.StreamOptions{Stdout: out}) }()
		<-stuck
		s.revs.set(map[string]string{"r1": "it went astray"}, nil)
		s.revs.f()
		idle(t, s.p, 0)
		<-ended
	})
}

func TestAClientThatGoesEndsItsSession(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		begun, ended := make(chan struct{}), make(chan struct{})
		s := stageFor(t, apiServer(t, func(c container) int {
			defer close(ended)
			_, _ = io.WriteString(c.stdout, "begun")
			_, _ = io.Copy(io.Discard, c.stdin)
			return 0
		}))
		in, typed := io.Pipe()
		t.Cleanup(func() { _ = typed.Close() })
		ctx, cancel := context.WithCancel(t.Context())
		var once sync.Once
		out := writesTo(func(p []byte) (int, error) { once.Do(func() { close(begun) }); return len(p), nil })
		go func() { _ = s.run(ctx, t, dialect, remotecommand.StreamOptions{Stdin: in, Stdout: out}) }()
		<-begun
		cancel()
		<-ended
		idle(t, s.p, 0)
	})
}

func TestAServerThatDiesEndsItsSession(t *testing.T) {
	each(t, func(t *testing.T, dialect string) {
		s := stageFor(t, apiServer(t, func(c container) int {
			_, _ = io.WriteString(c.stdout, "last hun")
			if dialect != "WebSocket v5" {
				// v5 is a translator's, which dies with all it has.
				c.die()
			}
			return 0
		}))
		var stdout bytes.Buffer
		_ = s.run(t.Context(), t, dialect, remotecommand.StreamOptions{Stdout: &stdout})
		if stdout.String() != "last hun" {
			t.Errorf("before it died it said %q", &stdout)
		}
		idle(t, s.p, 0)
	})
}

// switched answers w by switching protocols, with these headers, and sends first;
// the connection lives until then returns.
func switched(t *testing.T, w http.ResponseWriter, header http.Header, first string, then func(sent io.Reader, conn io.Writer)) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = conn.Close() }()
	header = header.Clone()
	header.Set("Connection", "Upgrade")
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = header.Write(rw)
	_, _ = rw.WriteString("\r\n" + first)
	_ = rw.Flush()
	then(rw, conn)
}

func TestAProtocolThatTheServerChoseIsRead(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]http.Header{
		"one that was not asked for":  {"Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"base64.channel.k8s.io"}},
		"none":                        {"Upgrade": {"websocket"}},
		"two":                         {"Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"v4.channel.k8s.io", "v5.channel.k8s.io"}},
		"compression":                 {"Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"v4.channel.k8s.io"}, "Sec-Websocket-Extensions": {"permessage-deflate"}},
		"another protocol altogether": {"Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {"v4.channel.k8s.io"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, _ := front(t, func(w http.ResponseWriter, r *http.Request) {
				if got := r.Header.Values("Sec-WebSocket-Protocol"); fmt.Sprint(got) != "[v4.channel.k8s.io]" || r.Header.Get("Sec-Websocket-Extensions") != "" {
					t.Errorf("asked for %v, extensions %v", got, r.Header.Values("Sec-Websocket-Extensions"))
				}
				switched(t, w, answer, "\x82\x10\x01"+planted, func(sent io.Reader, _ io.Writer) { _, _ = sent.Read(make([]byte, 1)) }) // until the proxy goes
			})
			resp, body := call(t, srv, "GET", "/api/v1/namespaces/a/pods/p/exec", http.Header{
				"Connection": {"Upgrade"}, "Upgrade": {"WebSocket"}, "Sec-Websocket-Protocol": {"base64url.bearer.authorization.k8s.io.AAAA, v4.channel.k8s.io", "base64.channel.k8s.io"},
				"Sec-Websocket-Extensions": {"permessage-deflate"},
			}, "")
			if resp.StatusCode < 500 || !strings.Contains(body, `"kind":"Status"`) || strings.Contains(body, planted) {
				t.Errorf("got %d %s", resp.StatusCode, body)
			}
		})
	}
}

func TestPortsPassAsTheyAre(t *testing.T) {
	t.Parallel()
	for kind, header := range map[string]http.Header{
		"SPDY":                  {"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {"portforward.k8s.io"}},
		"SPDY in a WebSocket":   {"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"SPDY/3.1+portforward.k8s.io"}},
		"WebSocket (version 4)": {"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"v4.channel.k8s.io"}},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := stageFor(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if got := strings.Join(r.Header.Values("Sec-WebSocket-Protocol"), ", "); got != header.Get("Sec-WebSocket-Protocol") {
					t.Errorf("asked for %q", got)
				}
				switched(t, w, header, "", func(sent io.Reader, conn io.Writer) { _, _ = io.Copy(conn, sent) })
			}))
			req, err := http.NewRequestWithContext(t.Context(), "GET", s.srv.URL+"/api/v1/namespaces/a/pods/p/portforward", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = header.Clone()
			req.Header.Set("Authorization", "Bearer good")
			req.Header.Add("Sec-WebSocket-Protocol", "base64url.bearer.authorization.k8s.io.AAAA")
			tr := s.srv.Client().Transport.(*http.Transport).Clone() //nolint:forcetypeassert // httptest's is one
			tr.TLSClientConfig.NextProtos = []string{"http/1.1"}
			tr.ForceAttemptHTTP2 = false
			resp, err := tr.RoundTrip(req)
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("%v %v", resp, err)
			}
			conn := resp.Body.(io.ReadWriteCloser) //nolint:forcetypeassert // that of a 101 is
			if _, err := io.WriteString(conn, planted); err != nil {
				t.Fatal(err)
			}
			back := make([]byte, len(planted))
			if _, err := io.ReadFull(conn, back); err != nil || string(back) != planted {
				t.Fatalf("%q %v", back, err)
			}
			s.revs.set(map[string]string{"r1": "it went astray"}, nil)
			s.revs.f()
			if more, _ := io.ReadAll(conn); len(more) > 0 {
				t.Errorf("after the revocation: %q", more)
			}
			idle(t, s.p, 0) // though the client keeps it open
			_ = conn.Close()
		})
	}
}

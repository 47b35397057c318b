package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/tipstaff-dev/tipstaff/mask"
)

// shell is a command that runs in a pod.
type shell func(in io.Reader, out, errs io.Writer) (failed int)

// kubelet answers exec and attach as the API server does for a pod, over
// WebSocket (the remote command protocol's fifth version) and over SPDY (its fourth).
func kubelet(t *testing.T, run shell) http.HandlerFunc {
	status := func(w io.Writer, code int) {
		if code == 0 {
			_, _ = io.WriteString(w, `{"metadata":{},"status":"Success"}`)
			return
		}
		_, _ = fmt.Fprintf(w, `{"metadata":{},"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"%d"}]},"message":"command terminated with exit code %d"}`, code, code)
	}
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Impersonate-User") == "" {
			t.Error("nobody is impersonated")
		}
		if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
				channelV5: {Binary: true, Channels: []wsstream.ChannelType{wsstream.ReadChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.ReadChannel}},
			})
			_, streams, err := conn.Open(w, r)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }() // it may be gone
			status(streams[3], run(streams[0], streams[1], streams[2]))
			return
		}
		if _, err := httpstream.Handshake(r, w, []string{"v4.channel.k8s.io"}); err != nil {
			t.Error(err)
			return
		}
		arrived := make(chan httpstream.Stream)
		conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, reply <-chan struct{}) error {
			go func() { <-reply; arrived <- s }()
			return nil
		})
		if conn == nil {
			return
		}
		defer func() { _ = conn.Close() }() // it may be gone
		all := map[string]httpstream.Stream{}
		want := 3 // error, stdout, and stderr or resize
		for _, in := range []string{"stdin", "stdout", "stderr"} {
			if r.URL.Query().Get(in) == "true" {
				want++
			}
		}
		for want -= 2; len(all) < want; {
			s := <-arrived
			all[s.Headers().Get("streamType")] = s
		}
		var in io.Reader = strings.NewReader("")
		if s := all["stdin"]; s != nil {
			in = s
		}
		code := run(in, all["stdout"], all["stderr"])
		_, _ = all["stdout"].Close(), all["stderr"].Close()
		status(all["error"], code)
		_ = all["error"].Close()
		<-conn.CloseChan() // the client has read all and goes
	}
}

// executors run a command through the proxy in either way.
func executors(t *testing.T, srv *httptest.Server, query string) map[string]remotecommand.Executor {
	t.Helper()
	cfg := &rest.Config{Host: srv.URL, BearerToken: "good"}
	u, err := url.Parse(srv.URL + "/api/v1/namespaces/a/pods/p/exec?command=x&stdout=true&stderr=true" + query)
	if err != nil {
		t.Fatal(err)
	}
	overWS, err := remotecommand.NewWebSocketExecutor(cfg, "GET", u.String())
	if err != nil {
		t.Fatal(err)
	}
	overSPDY, err := remotecommand.NewSPDYExecutor(cfg, "POST", u)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]remotecommand.Executor{"WebSocket": overWS, "SPDY": overSPDY}
}

func TestI7_CommandsAreMasked(t *testing.T) {
	t.Parallel()
	const value = "Zr8-correct-horse-77Q"
	srv, masker := front(t, kubelet(t, func(_ io.Reader, out, errs io.Writer) int {
		for _, part := range []string{"before Zr8-co", "rrect-horse", "-77Q after\n", "last " + value} {
			_, _ = io.WriteString(out, part)
		}
		_, _ = io.WriteString(errs, "DB_PASSWORD=swordfish\n")
		return 3
	}))
	// The proxy has seen the Secret.
	if err := masker.Scope("any").JSON(io.Discard, strings.NewReader(`{"kind":"Secret","stringData":{"k":"`+value+`"}}`)); err != nil {
		t.Fatal(err)
	}
	for name, ex := range executors(t, srv, "") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out, errs bytes.Buffer
			err := ex.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out, Stderr: &errs})
			var code exec.CodeExitError
			if !errors.As(err, &code) || code.Code != 3 {
				t.Errorf("ended with %v", err)
			}
			mark := mask.MarkPrefix
			if s := out.String(); strings.Contains(s, value) || strings.Count(s, mark) != 2 || !strings.HasPrefix(s, "before "+mark) || !strings.Contains(s, " after\nlast "+mark) {
				t.Errorf("stdout: %q", s)
			}
			if s := errs.String(); strings.Contains(s, "swordfish") || !strings.HasPrefix(s, "DB_PASSWORD="+mark) {
				t.Errorf("stderr: %q", s)
			}
		})
	}
}

func TestCommandsPassUnchangedOtherwise(t *testing.T) {
	t.Parallel()
	big := make([]byte, 1<<20)
	if _, err := rand.Read(big); err != nil {
		t.Fatal(err)
	}
	for name, run := range map[string]struct {
		shell shell
		in    []byte
		query string
	}{
		"large output": {func(_ io.Reader, out, _ io.Writer) int {
			for chunk := range slices.Chunk(big, 32<<10) {
				_, _ = out.Write(chunk)
			}
			return 0
		}, nil, ""},
		"an echo": {func(in io.Reader, out, _ io.Writer) int {
			_, _ = io.CopyN(out, in, int64(len(big)))
			return 0
		}, big, "&stdin=true"},
	} {
		srv, _ := front(t, kubelet(t, run.shell))
		for way, ex := range executors(t, srv, run.query) {
			t.Run(name+" over "+way, func(t *testing.T) {
				t.Parallel()
				var out, errs bytes.Buffer
				opts := remotecommand.StreamOptions{Stdout: &out, Stderr: &errs}
				if run.in != nil {
					opts.Stdin = bytes.NewReader(run.in)
				}
				if err := ex.StreamWithContext(t.Context(), opts); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(out.Bytes(), big) {
					t.Errorf("%d bytes of %d, or others", out.Len(), len(big))
				}
			})
		}
	}
}

// A prompt has no end of line: it must not be held back for ever.
func TestAPromptIsPassedOn(t *testing.T) {
	t.Parallel()
	srv, _ := front(t, kubelet(t, func(in io.Reader, out, _ io.Writer) int {
		_, _ = io.WriteString(out, "Continue? [y/N]")
		answer := make([]byte, 1)
		if _, err := io.ReadFull(in, answer); err != nil || answer[0] != 'y' {
			return 1
		}
		return 0
	}))
	for way, ex := range executors(t, srv, "&stdin=true") {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			stdin, typed := io.Pipe()
			var once sync.Once
			out := writerFunc(func(b []byte) error {
				if strings.Contains(string(b), "N]") {
					once.Do(func() { go func() { _, _ = typed.Write([]byte("y")); _ = typed.Close() }() })
				}
				return nil
			})
			if err := ex.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: out, Stderr: io.Discard}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestI9_ASessionEndsWithItsRun(t *testing.T) {
	t.Parallel()
	started := make(chan struct{}, 2)
	p, revs := before(t, kubelet(t, func(in io.Reader, out, _ io.Writer) int {
		_, _ = io.WriteString(out, "started\n")
		_, _ = io.Copy(io.Discard, in) // until the connection ends
		return 0
	}), twoTokens{})
	srv := httptest.NewServer(p.Handler())
	t.Cleanup(srv.Close)
	ended := make(chan error, 2)
	for _, ex := range executors(t, srv, "&stdin=true") {
		go func() {
			stdin, typed := io.Pipe()
			defer func() { _ = typed.Close() }() // never fails
			ended <- ex.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: stdin, Stderr: io.Discard, Stdout: writerFunc(func([]byte) error { started <- struct{}{}; return nil })})
		}()
	}
	<-started
	<-started
	revs.set(map[string]string{"r1": "enough"}, nil)
	revs.f()
	for range 2 {
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "is revoked: enough") {
			t.Errorf("a session of a revoked run ended with %v", err)
		}
	}
}

func TestUpgradesThatCannotBeReadAreRefused(t *testing.T) {
	t.Parallel()
	exec := "/api/v1/namespaces/a/pods/p/exec?command=x"
	for _, tc := range []struct {
		name, path string
		header     http.Header
		code       int
	}{
		{"another protocol", exec, http.Header{"Upgrade": {"h2c"}}, 400},
		{"two protocols", exec, http.Header{"Upgrade": {"websocket", "SPDY/3.1"}}, 400},
		{"an old version only", exec, http.Header{"Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"channel.k8s.io, base64.channel.k8s.io"}}, 400},
		{"a token as a protocol", exec, http.Header{"Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"base64url.bearer.authorization.k8s.io.eyJ"}}, 400},
		{"another group's pods", "/apis/example.com/v1/namespaces/a/pods/p/exec", http.Header{"Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {channelV5}}, 403},
		{"a service's proxy", "/api/v1/namespaces/a/services/s/proxy/x", http.Header{"Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {channelV5}}, 403},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			srv, _ := front(t, mustNotCall(t))
			tc.header.Set("Connection", "Upgrade")
			if resp, body := call(t, srv, "GET", tc.path, tc.header, ""); resp.StatusCode != tc.code {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
	}
}

func TestWhatWasNotAskedForIsNotSwitchedTo(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]string{
		"another version": "Sec-WebSocket-Protocol: v4.base64.channel.k8s.io\r\n",
		"compression":     "Sec-WebSocket-Protocol: v5.channel.k8s.io\r\nSec-WebSocket-Extensions: permessage-deflate\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, _ := front(t, func(w http.ResponseWriter, _ *http.Request) {
				conn, rw, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer func() { _ = conn.Close() }() // it may be gone
				_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + header + "\r\n\x82\x05\x01leak")
				_ = rw.Flush()
			})
			resp, body := call(t, srv, "GET", "/api/v1/namespaces/a/pods/p/exec?command=x", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {channelV5}}, "")
			if resp.StatusCode < 500 || strings.Contains(body, "leak") {
				t.Errorf("%d %q", resp.StatusCode, body)
			}
		})
	}
}

func TestI7_LogsAreMasked(t *testing.T) {
	t.Parallel()
	const value = "Zr8-correct-horse-77Q"
	more := make(chan struct{})
	srv, masker := front(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("container") == "none" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"container none is not valid","reason":"BadRequest","code":400}`)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, "first\npassword=swordfish\nZr8-co")
		_ = http.NewResponseController(w).Flush()
		<-more
		_, _ = io.WriteString(w, "rrect-horse-77Q\nlast")
	})
	if err := masker.Scope("any").JSON(io.Discard, strings.NewReader(`{"kind":"Secret","stringData":{"k":"`+value+`"}}`)); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/api/v1/namespaces/a/pods/p/log?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer good")
	req.Header.Set("Accept", "application/json, */*") // as kubectl does
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }() // read to its end
	got := make([]byte, len("first\n"))
	if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "first\n" {
		t.Fatalf("%q %v before the log ended", got, err)
	}
	close(more)
	rest, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if s := string(rest); strings.Contains(s, "swordfish") || strings.Contains(s, "correct") || strings.Contains(s, "horse") || strings.Count(s, mask.MarkPrefix) != 2 || !strings.HasSuffix(s, "\nlast") {
		t.Errorf("%q", s)
	}
	if resp, body := call(t, srv, "GET", "/api/v1/namespaces/a/pods/p/log?container=none", nil, ""); resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, "is not valid") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

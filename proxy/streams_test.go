package proxy

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// overHTTP2 serves a proxy that speaks HTTP/2, as the product's does, to an API
// server that does, too, and gives every answer over that.
func overHTTP2(t *testing.T, backend http.HandlerFunc) *httptest.Server {
	t.Helper()
	return serving(t, backend, true)
}

// serving is the same where answers but streams have connections of their own.
func serving(t *testing.T, backend http.HandlerFunc, oneConnection bool) *httptest.Server {
	t.Helper()
	up := httptest.NewUnstartedServer(backend)
	up.EnableHTTP2 = true
	up.StartTLS()
	t.Cleanup(up.Close)
	p, _ := before(t, mustNotCall(t), twoTokens{})
	upstream := rest.Config{Host: up.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	var err error
	if p.upstream, _, err = rest.DefaultServerUrlFor(&upstream); err != nil {
		t.Fatal(err)
	}
	if p.streams, err = rest.TransportFor(&upstream); err != nil {
		t.Fatal(err)
	}
	p.answers = p.streams
	if !oneConnection {
		if p.answers, err = manyConnections(&upstream); err != nil {
			t.Fatal(err)
		}
	}
	srv := httptest.NewUnstartedServer(p.Handler())
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

// get begins to read an answer over a client of its own.
func get(t *testing.T, srv *httptest.Server, path string, http2 bool) *http.Response {
	t.Helper()
	resp, err := tryGet(t, srv, path, http2)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func tryGet(t *testing.T, srv *httptest.Server, path string, http2 bool) (*http.Response, error) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: http2}
	t.Cleanup(tr.CloseIdleConnections)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer good")
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != map[bool]int{true: 2, false: 1}[http2] {
		t.Fatalf("%s %s", resp.Proto, resp.Status)
	}
	return resp, nil
}

const listItem = `{"metadata":{"name":"s","namespace":"a"},"data":{"k":"aHVudGVyMi1QTEFOVEVE"},"type":"Opaque"}`

// writeList writes a list of n bytes or a little more.
func writeList(w io.Writer, n int) error {
	items := strings.Repeat(","+listItem, 500)
	_, err := io.WriteString(w, `{"kind":"SecretList","apiVersion":"v1","items":[`+listItem)
	for written := 0; written < n && err == nil; written += len(items) {
		_, err = io.WriteString(w, items)
	}
	if err == nil {
		_, err = io.WriteString(w, "]}\n")
	}
	return err
}

// Clients that don't read, with megabytes waiting for each, beside others, who
// get their lists, over one connection to the API server or many.
func TestASlowClientHoldsUpNobody(t *testing.T) {
	t.Parallel()
	const slowOnes = 8
	size := 24 << 20
	if raceEnabled {
		size = 6 << 20 // still more than all that stands between holds
	}
	for _, oneConnection := range []bool{true, false} {
		t.Run(fmt.Sprintf("one connection %t", oneConnection), func(t *testing.T) {
			t.Parallel()
			var conns sync.Map
			srv := serving(t, func(w http.ResponseWriter, r *http.Request) {
				conns.Store(r.RemoteAddr, true)
				w.Header().Set("Content-Type", "application/json")
				_ = writeList(w, size) // the client may be gone
			}, oneConnection)
			var slow []*http.Response
			for i := range slowOnes {
				resp := get(t, srv, "/api/v1/secrets", i%2 == 0)
				if _, err := io.ReadFull(resp.Body, make([]byte, 1024)); err != nil {
					t.Fatal(err)
				}
				slow = append(slow, resp)
			}
			whole := func(resp *http.Response) {
				n, err := io.Copy(io.Discard, resp.Body)
				if err != nil || n < int64(size) {
					t.Errorf("%d bytes, then %v", n, err)
				}
			}
			var others sync.WaitGroup
			for i := range slowOnes {
				others.Go(func() { whole(get(t, srv, "/api/v1/secrets", i%2 == 0)) })
			}
			others.Wait()
			n := 0
			conns.Range(func(any, any) bool { n++; return true })
			if oneConnection != (n == 1) || n > 2*slowOnes {
				t.Errorf("%d connections to the API server", n)
			}
			for _, resp := range slow { // and what they read at last is whole
				whole(resp)
			}
		})
	}
}

// More connections than client-go would keep are used again.
func TestConnectionsAreUsedAgain(t *testing.T) {
	t.Parallel()
	const callers = 100
	var conns sync.Map
	together := make(chan struct{}, callers)
	all := make(chan struct{})
	srv := serving(t, func(w http.ResponseWriter, r *http.Request) {
		conns.Store(r.RemoteAddr, true)
		together <- struct{}{}
		<-all
		reply("application/json", `{"kind":"PodList","items":[]}`)(w, r)
	}, false)
	for range 3 {
		var done sync.WaitGroup
		for range callers {
			done.Go(func() { _, _ = io.Copy(io.Discard, get(t, srv, "/api/v1/pods", true).Body) })
		}
		for range callers {
			<-together
		}
		for range callers {
			all <- struct{}{}
		}
		done.Wait()
	}
	n := 0
	conns.Range(func(any, any) bool { n++; return true })
	if n > callers+callers/2 { // a connection may not be idle yet when the next request comes
		t.Errorf("%d connections for %d callers", n, callers)
	}
}

// An API server whose stream or connection is reset in the midst of a list: what
// its client gets doesn't look whole, whatever both speak.
func TestAListThatIsResetDoesNotLookWhole(t *testing.T) {
	t.Parallel()
	partly := func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"kind":"SecretList","items":[`+strings.Repeat(listItem+",", 4000)+listItem)
		w.(http.Flusher).Flush()
	}
	streamReset := func(t *testing.T) *httptest.Server {
		return overHTTP2(t, func(w http.ResponseWriter, _ *http.Request) {
			partly(w)
			panic(http.ErrAbortHandler)
		})
	}
	connectionReset := func(t *testing.T) *httptest.Server {
		p, _ := before(t, func(w http.ResponseWriter, _ *http.Request) {
			partly(w)
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_ = conn.(*tls.Conn).NetConn().(*net.TCPConn).SetLinger(0) // closing sends a reset
			_ = conn.(*tls.Conn).NetConn().Close()
		}, twoTokens{})
		srv := httptest.NewUnstartedServer(p.Handler())
		srv.EnableHTTP2 = true
		srv.StartTLS()
		t.Cleanup(srv.Close)
		return srv
	}
	for name, serve := range map[string]func(*testing.T) *httptest.Server{"the stream": streamReset, "the connection": connectionReset} {
		for _, http2 := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, client of HTTP/2 %t", name, http2), func(t *testing.T) {
				t.Parallel()
				resp, err := tryGet(t, serve(t), "/api/v1/secrets", http2)
				if err != nil {
					return // it came before the answer's headers went out
				}
				b, err := io.ReadAll(resp.Body)
				if err == nil {
					t.Errorf("a whole answer of %d bytes", len(b))
				}
				if bytes.Contains(b, []byte(planted64)) {
					t.Error("the value passed")
				}
			})
		}
	}
}

// A client that leaves in the midst of a list or of a log ends it at the API server.
func TestAClientThatLeavesAListEndsIt(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/api/v1/secrets", "/api/v1/namespaces/a/pods/p/log?follow=true"} {
		for _, http2 := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, HTTP/2 %t", path, http2), func(t *testing.T) {
				t.Parallel()
				ended := make(chan error, 1)
				srv := overHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
					var err error
					if r.URL.Path == "/api/v1/secrets" {
						w.Header().Set("Content-Type", "application/json")
						err = writeList(w, 1<<40)
					} else {
						w.Header().Set("Content-Type", "text/plain")
						for err == nil {
							_, err = io.WriteString(w, "tick "+planted+"\n")
							w.(http.Flusher).Flush()
						}
					}
					<-r.Context().Done()
					ended <- err
				})
				resp := get(t, srv, path, http2)
				if _, err := io.ReadFull(resp.Body, make([]byte, 64<<10)); err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if err := <-ended; err == nil { // the test's own time limit is the bound
					t.Error("it was written to its end")
				}
			})
		}
	}
}

// What is larger than any object passes in bounded memory: a log's line, and of
// an object's text the refusal.
func TestHugeTextsTakeBoundedMemory(t *testing.T) {
	for name, c := range map[string]struct {
		path, head, tail string
		passes           bool
	}{
		"a line of a log":                 {"/api/v1/namespaces/a/pods/p/log", "", " password=" + planted + "\n", true},
		"a text of an object":             {"/api/v1/configmaps", `{"kind":"ConfigMapList","items":[{"data":{"k":"`, `"}}]}`, false},
		"a text of an object of a Secret": {"/api/v1/secrets", `{"kind":"SecretList","items":[{"data":{"k":"`, `"}}]}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			size := 100 << 20
			if raceEnabled && c.passes {
				size = 8 << 20 // the rest tells nothing more, and takes minutes
			}
			var most atomic.Uint64
			srv := overHTTP2(t, func(w http.ResponseWriter, _ *http.Request) {
				if c.head == "" {
					w.Header().Set("Content-Type", "text/plain")
				} else {
					w.Header().Set("Content-Type", "application/json")
				}
				_, _ = io.WriteString(w, c.head)
				part := strings.Repeat("ordinary words ", 1<<16)
				for n := 0; n < size; n += len(part) {
					if _, err := io.WriteString(w, part); err != nil {
						return
					}
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					most.Store(max(most.Load(), m.HeapAlloc))
				}
				_, _ = io.WriteString(w, c.tail)
			})
			runtime.GC()
			var before runtime.MemStats
			runtime.ReadMemStats(&before)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer good")
			resp, err := srv.Client().Do(req)
			var n int64
			var end tail
			if err == nil {
				n, err = io.Copy(&end, resp.Body)
				_ = resp.Body.Close()
				if err == nil && resp.StatusCode != http.StatusOK {
					err = fmt.Errorf("%s", resp.Status)
				}
			}
			if passes := err == nil && n >= int64(size); passes != c.passes {
				t.Errorf("%d bytes, then %v", n, err)
			}
			if strings.Contains(string(end), planted) {
				t.Errorf("the value passed: %s", end)
			}
			// An object may take its own bound, and a copy of it; the test's two
			// servers have theirs.
			if grown := int64(most.Load()) - int64(before.HeapAlloc); grown > 64<<20 {
				t.Errorf("the heap grew by %d MB", grown>>20)
			}
		})
	}
}

// tail keeps the last bytes that were written.
type tail []byte

// Write takes b.
func (t *tail) Write(b []byte) (int, error) {
	*t = append(*t, b...)
	if n := len(*t) - 4096; n > 0 {
		*t = append((*t)[:0], (*t)[n:]...)
	}
	return len(b), nil
}

// Long answers are compressed for who takes that, as the API server does.
func TestLongAnswersAreCompressed(t *testing.T) {
	t.Parallel()
	sizes := map[string]int{"/api/v1/secrets": 1 << 20, "/api/v1/configmaps": 1 << 10, "/api/v1/namespaces/broken/secrets": 1 << 20}
	srv := overHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		watch := r.URL.Query().Get("watch") != ""
		if v := r.Header.Get("Accept-Encoding"); (v == "gzip") == watch {
			t.Errorf("the API server was asked for %q, of a watch: %t", v, watch)
		}
		w.Header().Set("Content-Type", "application/json")
		if watch {
			for range 1000 {
				_, _ = io.WriteString(w, `{"type":"ADDED","object":`+listItem+"}\n")
			}
			return
		}
		if strings.Contains(r.URL.Path, "broken") {
			_, _ = io.WriteString(w, `{"kind":"SecretList","items":[`+strings.Repeat(listItem+",", 20_000))
			panic(http.ErrAbortHandler)
		}
		_ = writeList(w, sizes[r.URL.Path])
	})
	for _, c := range []struct {
		path, accept string
		zipped, ok   bool
	}{
		{"/api/v1/secrets", "gzip", true, true}, {"/api/v1/secrets", "deflate, gzip", true, true}, {"/api/v1/secrets", "", false, true},
		{"/api/v1/secrets", "gzip;q=0", false, true}, {"/api/v1/secrets", "zstd", false, true},
		{"/api/v1/configmaps?watch=true", "gzip", false, true}, {"/api/v1/namespaces/broken/secrets", "gzip", true, false},
	} {
		t.Run(c.path+", "+c.accept, func(t *testing.T) {
			t.Parallel()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer good")
			req.Header.Set("Accept-Encoding", c.accept) // else Go's client asks by itself
			resp, err := srv.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			if zipped := resp.Header.Get("Content-Encoding") == "gzip"; zipped != c.zipped || zipped != (resp.Header.Get("Vary") == "Accept-Encoding") {
				t.Fatalf("got %v", resp.Header)
			}
			var body io.Reader = resp.Body
			if c.zipped {
				if body, err = gzip.NewReader(resp.Body); err != nil {
					t.Fatal(err)
				}
			}
			b, err := io.ReadAll(body)
			if whole := err == nil && strings.HasSuffix(string(b), "}\n"); whole != c.ok {
				t.Errorf("%d bytes, then %v", len(b), err)
			}
			if len(b) < 1<<16 || bytes.Contains(b, []byte(planted64)) {
				t.Errorf("%d bytes, or the value passed", len(b))
			}
		})
	}
}

// What the API server compresses is unpacked, masked and passed on as the client
// takes it; what breaks off within doesn't look whole.
func TestI7_CompressedAnswersAreUnpackedAndMasked(t *testing.T) {
	t.Parallel()
	var whole, bomb bytes.Buffer
	zw := gzip.NewWriter(&whole)
	_ = writeList(zw, 1<<20) // to a buffer
	_ = zw.Close()
	zw = gzip.NewWriter(&bomb)
	_, _ = io.WriteString(zw, `{"kind":"SecretList","items":[`+listItem+`,{"data":{"k":"`)
	for range 100 { // in one value
		_, _ = zw.Write(bytes.Repeat([]byte("YWFh"), 1<<18))
	}
	_, _ = io.WriteString(zw, `"}}]}`)
	_ = zw.Close()
	bodies := map[string][]byte{
		"/api/v1/secrets": whole.Bytes(), "/api/v1/namespaces/cut/secrets": whole.Bytes()[:whole.Len()/2],
		"/api/v1/namespaces/spoilt/secrets": append(bytes.Clone(whole.Bytes()[:whole.Len()-8]), "8 bytes."...), "/api/v1/namespaces/bomb/secrets": bomb.Bytes(),
	}
	for _, oneConnection := range []bool{true, false} {
		srv := serving(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			body := bodies[r.URL.Path]
			if r.URL.Query().Has("length") {
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			}
			_, _ = w.Write(body) // the client may be gone
		}, oneConnection)
		for path := range bodies {
			for _, query := range []string{"", "?length"} {
				for _, accept := range []string{"gzip", "identity"} {
					t.Run(fmt.Sprint(path, query, accept, oneConnection), func(t *testing.T) {
						t.Parallel()
						req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+path+query, nil)
						if err != nil {
							t.Fatal(err)
						}
						req.Header.Set("Authorization", "Bearer good")
						req.Header.Set("Accept-Encoding", accept)
						resp, err := srv.Client().Do(req)
						if err != nil {
							if path == "/api/v1/secrets" {
								t.Fatal(err)
							}
							return // broken off before the first byte
						}
						defer func() { _ = resp.Body.Close() }()
						var body io.Reader = resp.Body
						if resp.Header.Get("Content-Encoding") == "gzip" {
							if body, err = gzip.NewReader(resp.Body); err != nil {
								t.Fatal(err)
							}
						}
						b, err := io.ReadAll(body)
						if ok := resp.StatusCode == http.StatusOK && err == nil; ok != (path == "/api/v1/secrets") {
							t.Errorf("%s, %d bytes, then %v", resp.Status, len(b), err)
						}
						if bytes.Contains(b, []byte(planted64)) || bytes.Contains(b, []byte("YWFhYWFh")) {
							t.Error("a value passed")
						}
						if path == "/api/v1/secrets" && !bytes.HasSuffix(b, []byte("]}\n")) {
							t.Errorf("its end is %q", b[len(b)-20:])
						}
					})
				}
			}
		}
	}
}

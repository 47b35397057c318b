package proxy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/mask"
)

const planted = "hunter2-PLANTED"

var planted64 = base64.StdEncoding.EncodeToString([]byte(planted))

var agent = v1alpha1.Agent{User: "agent:demo:bot", Issuer: "demo", Run: "r1", Owner: "ann@example.com", Profile: "default"}

var another = v1alpha1.Agent{User: "agent:demo:bot", Issuer: "demo", Run: "r2", Profile: "default"}

type twoTokens struct{}

func (twoTokens) Authenticate(_ context.Context, token string) (v1alpha1.Agent, error) {
	switch token {
	case "good":
		return agent, nil
	case "other":
		return another, nil
	}
	return v1alpha1.Agent{}, errors.New("token refused: unknown")
}

// revocations are of runs, each for its reason; err says that nobody knows.
type revocations struct {
	mu   sync.Mutex
	runs map[string]string
	err  error
	f    func()
}

func (r *revocations) Revoked(a v1alpha1.Agent) (string, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	reason, revoked := r.runs[a.Run]
	return reason, revoked && r.err == nil, r.err
}

func (r *revocations) Subscribe(f func()) (cancel func()) {
	r.f = f
	return func() {}
}

// set puts the runs in force without telling the subscriber.
func (r *revocations) set(runs map[string]string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.runs, r.err = runs, err
}

// front serves a proxy before a backend that stands in for the API server; the
// real one comes in e2e.
func front(t *testing.T, backend http.HandlerFunc) (*httptest.Server, *mask.Masker) {
	t.Helper()
	p, _ := before(t, backend, twoTokens{})
	srv := httptest.NewServer(p.Handler())
	t.Cleanup(srv.Close)
	return srv, p.masker
}

// before is the proxy alone, and who is revoked.
func before(t testing.TB, backend http.HandlerFunc, auth Authenticator) (*Proxy, *revocations) {
	t.Helper()
	up := httptest.NewTLSServer(backend)
	t.Cleanup(up.Close)
	masker, err := mask.New(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	var ca bytes.Buffer
	ca.WriteString("-----BEGIN CERTIFICATE-----\n")
	ca.WriteString(base64.StdEncoding.EncodeToString(up.Certificate().Raw))
	ca.WriteString("\n-----END CERTIFICATE-----\n")
	revs := &revocations{}
	p, err := New(Config{}, &rest.Config{Host: up.URL, BearerToken: "proxys-own", TLSClientConfig: rest.TLSClientConfig{CAData: ca.Bytes()}},
		auth, revs, masker, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	p.RecordWith(newShelf())
	return p, revs
}

func call(t *testing.T, srv *httptest.Server, method, path string, header http.Header, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	if req.Header.Get("Authorization") == "" {
		req.Header.Set("Authorization", "Bearer good")
	}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func reply(contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, body)
	}
}

// mustNotCall fails the test when the request reaches the API server.
func mustNotCall(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s reached the API server", r.Method, r.URL)
		w.WriteHeader(http.StatusTeapot)
	}
}

func TestTheClientCannotSayWhoItIs(t *testing.T) {
	t.Parallel()
	var got http.Header
	srv, _ := front(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Clone()
		reply("application/json", `{"kind":"PodList","items":[]}`)(w, r)
	})
	resp, body := call(t, srv, "GET", "/api/v1/pods", http.Header{
		"Impersonate-User":        {"system:admin"},
		"Impersonate-Group":       {"system:masters"},
		"Impersonate-Uid":         {"0"},
		"Impersonate-Extra-Scope": {"all"},
		"impersonate-extra-odd":   {"all"},
		"X-Remote-User":           {"root"},
		"X-Remote-Group":          {"system:masters"},
		"Impersonate_user":        {"root"},
		"Connection":              {"keep-alive, Impersonate-User, Impersonate-Group, Accept"},
		"Cookie":                  {"a=b"},
		"Audit-Id":                {"another-requests"},
		"X-Real-Ip":               {"6.6.6.6"},
		"X-Forwarded-For":         {"6.6.6.6"},
		"X-Forwarded-Port":        {"6"},
		"Forwarded":               {"for=6.6.6.6"},
		"Accept":                  {"application/vnd.kubernetes.protobuf,application/json"},
	}, "")
	if resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	want := map[string]string{
		"Impersonate-User":                        "agent:demo:bot",
		"Impersonate-Group":                       "tipstaff:agents,tipstaff:profile:default,tipstaff:run:demo:r1,tipstaff:proxied,tipstaff:proxied:run:demo:r1,tipstaff:proxied:agent:agent:demo:bot",
		"Impersonate-Uid":                         "",
		"Impersonate-Extra-Scope":                 "",
		"Impersonate-Extra-Odd":                   "",
		"Impersonate-Extra-Tipstaff.dev%2frun":    "r1",
		"Impersonate-Extra-Tipstaff.dev%2fissuer": "demo",
		"Impersonate-Extra-Tipstaff.dev%2fowner":  "ann@example.com",
		"X-Remote-User":                           "",
		"X-Remote-Group":                          "",
		"Impersonate_user":                        "",
		"Cookie":                                  "",
		"X-Real-Ip":                               "",
		"X-Forwarded-For":                         "127.0.0.1",
		"X-Forwarded-Port":                        "",
		"Forwarded":                               "",
		"Authorization":                           "Bearer proxys-own",
		"Accept":                                  "application/json",
		"Accept-Encoding":                         "gzip",
	}
	for k, v := range want {
		if g := strings.Join(got.Values(k), ","); g != v {
			t.Errorf("%s: got %q, want %q", k, g, v)
		}
	}
	if id := got.Get("Audit-Id"); id == "" || id == "another-requests" {
		t.Errorf("the audit id is %q, not the proxy's", id)
	}
	for k := range got {
		if strings.HasPrefix(strings.ToLower(k), "impersonate") && want[k] == "" {
			t.Errorf("%s came through", k)
		}
	}
}

func TestNoTokenNoRequest(t *testing.T) {
	t.Parallel()
	srv, _ := front(t, mustNotCall(t))
	for _, h := range []http.Header{
		{"Authorization": {"Bearer bad"}},
		{"Authorization": {"Basic Z29vZA=="}},
		{"Authorization": {"Bearer "}},
		{"Authorization": {"Bearer good", "Bearer good"}},
	} {
		resp, body := call(t, srv, "GET", "/api/v1/pods", h, "")
		if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(body, `"kind":"Status"`) {
			t.Errorf("%v: %d %s", h, resp.StatusCode, body)
		}
	}
}

func TestRefusedBeforeTheAPIServer(t *testing.T) {
	t.Parallel()
	mark := mask.MarkPrefix + "0123456789abcdef0123"
	mark64 := base64.StdEncoding.EncodeToString([]byte(mark))
	for _, tc := range []struct {
		name, method, path string
		header             http.Header
		body               string
		code               int
		says               string
	}{
		{"a path with an empty element", "GET", "/api/v1//secrets", nil, "", 400, "clean"},
		{"a path with dots", "GET", "/api/v1/pods/../secrets", nil, "", 400, "clean"},
		{"a path with an encoded slash", "GET", "/api/v1/namespaces/a%2Fsecrets", nil, "", 400, "%2f"},
		{"a path with encoded dots", "GET", "/api/v1/pods/%2e%2e/secrets", nil, "", 400, "clean"},
		{"a pod's proxy", "GET", "/api/v1/namespaces/a/pods/p/proxy/env", nil, "", 403, "not offered"},
		{"a node's proxy", "GET", "/api/v1/nodes/n/proxy/runningpods", nil, "", 403, "not offered"},
		{"a legacy proxy path", "GET", "/api/v1/proxy/nodes/n/x", nil, "", 403, "not offered"},
		{"a watch over WebSocket", "GET", "/api/v1/secrets?watch=1", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}, "", 403, "upgraded"},
		{"a watch in protobuf only", "GET", "/api/v1/secrets?watch=true", http.Header{"Accept": {"application/vnd.kubernetes.protobuf;stream=watch"}}, "", 406, "ask for that"},
		{"CBOR only", "GET", "/api/v1/secrets", http.Header{"Accept": {"application/cbor"}}, "", 406, "ask for that"},
		{"a mark in data", "PUT", "/api/v1/namespaces/a/secrets/s", http.Header{"Content-Type": {"application/json"}}, `{"data":{"k":"` + mark64 + `"}}`, 403, "data.k holds a mark"},
		{"a mark in a YAML apply", "PATCH", "/api/v1/namespaces/a/secrets/s?force=true", http.Header{"Content-Type": {"application/apply-patch+yaml"}}, "stringData:\n  k: \"x" + mark + "\"\n", 403, "stringData.k holds a mark"},
		{"a mark in a JSON patch", "PATCH", "/api/v1/namespaces/a/secrets/s", http.Header{"Content-Type": {"application/json-patch+json"}}, `[{"op":"add","path":"/data/k","value":"` + mark64 + `"}]`, 403, "data.k holds a mark"},
		{"a mark under a name given twice", "PUT", "/api/v1/namespaces/a/secrets/s", http.Header{"Content-Type": {"application/json"}}, `{"data":{"k":"` + mark64 + `"},"data":{}}`, 400, "a name twice"},
		{"a mark in protobuf", "PUT", "/api/v1/namespaces/a/secrets/s", http.Header{"Content-Type": {"application/vnd.kubernetes.protobuf"}}, "k8s\x00\x01" + mark, 403, "holds a mark"},
		{"a body too large", "POST", "/api/v1/namespaces/a/configmaps", http.Header{"Content-Type": {"application/json"}}, strings.Repeat(" ", maxBodyBytes+1), 413, "larger"},
		{"a compressed body", "POST", "/api/v1/namespaces/a/configmaps", http.Header{"Content-Encoding": {"gzip"}}, "x", 415, "compressed"},
		{"a body of an unknown type", "POST", "/api/v1/namespaces/a/configmaps", http.Header{"Content-Type": {"application/cbor"}}, "x", 415, "JSON, YAML"},
		{"a mark spelt with escapes under a name given twice", "PUT", "/api/v1/namespaces/a/secrets/s", http.Header{"Content-Type": {"application/json"}}, `{"stringData":{"k":"\u0074` + mark[1:] + `"},"stringData":{"j":"x"}}`, 400, "a name twice"},
		{"a mark that a name given twice hides, in YAML", "PATCH", "/api/v1/namespaces/a/secrets/s", http.Header{"Content-Type": {"application/apply-patch+yaml"}}, "stringData: {k: " + mark + "}\nstringData: {j: x}\n", 400, "a name twice"},
		{"a mark in YAML's own binary", "PATCH", "/api/v1/namespaces/a/secrets/s?force=true", http.Header{"Content-Type": {"application/apply-patch+yaml"}}, "stringData:\n  k: !!binary " + mark64 + "\n", 403, "stringData.k holds a mark"},
		{"a body that is no JSON", "POST", "/api/v1/namespaces/a/configmaps", http.Header{"Content-Type": {"application/json"}}, "{", 400, "no JSON"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			refused := mustNotCall(t)
			srv, _ := front(t, func(w http.ResponseWriter, r *http.Request) {
				if tc.method == http.MethodGet || r.Method != http.MethodGet {
					refused(w, r)
					return
				}
				// The object as it is now: it has other marks.
				reply("application/json", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"s","namespace":"a"},"data":{"k":"b3RoZXI="}}`)(w, r)
			})
			resp, body := call(t, srv, tc.method, tc.path, tc.header, tc.body)
			if resp.StatusCode != tc.code || !strings.Contains(body, tc.says) || !strings.Contains(body, `"kind":"Status"`) {
				t.Errorf("got %d %s, want %d %q", resp.StatusCode, body, tc.code, tc.says)
			}
		})
	}
}

func TestI7_AnswersAreMaskedOrNotPassed(t *testing.T) {
	t.Parallel()
	secret := `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"s"},"data":{"k":"` + planted64 + `"}}`
	for _, tc := range []struct {
		name, path, contentType, body string
		code                          int
		has                           string
	}{
		{"one Secret", "/api/v1/namespaces/a/secrets/s", "application/json", secret, 200, `"name":"s"`},
		{"a list", "/api/v1/secrets", "application/json", `{"kind":"SecretList","items":[` + secret + `,{"data":{"k":"` + planted64 + `"}}]}`, 200, `"name":"s"`},
		{"a watch", "/api/v1/secrets?watch=true", "application/json;stream=watch", `{"type":"ADDED","object":` + secret + "}\n", 200, `"ADDED"`},
		{"a legacy watch path", "/api/v1/watch/secrets", "application/json", `{"type":"ADDED","object":` + secret + "}\n", 200, `"ADDED"`},
		{"a Secret in YAML is not passed", "/api/v1/namespaces/a/secrets/s", "application/yaml", "data:\n  k: " + planted64, 502, "not passed on"},
		{"a Secret in protobuf is not passed", "/api/v1/namespaces/a/secrets/s", "application/vnd.kubernetes.protobuf", "k8s\x00" + planted, 502, "not passed on"},
		{"an answer without a type is not passed", "/api/v1/namespaces/a/secrets/s", "", secret, 502, "not passed on"},
		{"a refusal of a webhook that quotes the value", "/api/v1/namespaces/a/secrets/s", "application/json", `{"kind":"Status","status":"Failure","reason":"Invalid","message":"was ` + planted + `"}`, 200, `"Invalid"`},
		{"the version passes as it is", "/version", "application/json", `{"major":"1"}`, 200, `"major"`},
		{"OpenAPI passes as it is", "/openapi/v2", "application/com.github.proto", "proto", 200, "proto"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			srv, _ := front(t, reply(tc.contentType, tc.body))
			resp, body := call(t, srv, "GET", tc.path, nil, "")
			if resp.StatusCode != tc.code || !strings.Contains(body, tc.has) {
				t.Errorf("got %d %s, want %d %q", resp.StatusCode, body, tc.code, tc.has)
			}
			if strings.Contains(body, planted) || strings.Contains(body, planted64) {
				t.Errorf("the value passed: %s", body)
			}
		})
	}
}

func TestI7_AnAnswerThatBreaksOffIsCut(t *testing.T) {
	t.Parallel()
	for _, items := range []int{1, 5000} {
		srv, _ := front(t, reply("application/json", `{"kind":"SecretList","items":[`+strings.Repeat(`{"data":{"k":"`+planted64+`"}},`, items)+`{"data":{"k":"`+planted64+`"`))
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/api/v1/secrets", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer good")
		// A small one is an error; of a large one the cut may come before the
		// headers or after.
		resp, err := srv.Client().Do(req)
		if err != nil {
			continue
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err == nil && resp.StatusCode != http.StatusBadGateway {
			t.Errorf("a whole answer: %s", b)
		}
		if strings.Contains(string(b), planted64) {
			t.Errorf("the value passed: %s", b)
		}
	}
}

func TestTextErrorsKeepTheirCodeButNotTheirText(t *testing.T) {
	t.Parallel()
	srv, _ := front(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		http.Error(w, "too many, said "+planted, http.StatusTooManyRequests)
	})
	resp, body := call(t, srv, "GET", "/api/v1/secrets", nil, "")
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "7" || strings.Contains(body, planted) {
		t.Errorf("got %d %v %s", resp.StatusCode, resp.Header, body)
	}
}

func TestI7_AnswersInAnotherEncodingAreNotPassed(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"deflate", "br", "gzip, gzip", "gzip"} { // it isn't compressed at all
		srv, _ := front(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", encoding)
			reply("application/json", `{"kind":"Secret","data":{"k":"`+planted64+`"}}`)(w, r)
		})
		resp, body := call(t, srv, "GET", "/api/v1/secrets", http.Header{"Accept-Encoding": {"gzip"}}, "")
		if resp.StatusCode != http.StatusBadGateway || strings.Contains(body, planted64) {
			t.Errorf("%s: got %d %s", encoding, resp.StatusCode, body)
		}
	}
}

func TestI7_HEADDoesNotTellTheLength(t *testing.T) {
	t.Parallel()
	srv, _ := front(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "4321")
	})
	resp, _ := call(t, srv, "HEAD", "/api/v1/namespaces/a/secrets/s", nil, "")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Length") != "" {
		t.Errorf("got %d %v", resp.StatusCode, resp.Header)
	}
}

func TestTheAPIServerIsAway(t *testing.T) {
	t.Parallel()
	masker, err := mask.New(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	timeout := &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	for _, tc := range []struct {
		name string
		err  error
		code int
	}{
		{"refused connections are answered 503", errors.New("connection refused"), http.StatusServiceUnavailable},
		{"a timeout is answered 504", timeout, http.StatusGatewayTimeout},
	} {
		p, err := New(Config{}, &rest.Config{Host: "https://127.0.0.1:1"}, twoTokens{}, &revocations{}, masker, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		p.answers = failing{tc.err}
		srv := httptest.NewServer(p.Handler())
		resp, body := call(t, srv, "GET", "/api/v1/pods", nil, "")
		srv.Close()
		if resp.StatusCode != tc.code || !strings.Contains(body, `"kind":"Status"`) {
			t.Errorf("%s: got %d %s", tc.name, resp.StatusCode, body)
		}
	}
}

type failing struct{ err error }

func (f failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.err }

// TestAListStreams: the client has the list's start before the API server has
// written its end, and a client that reads slowly holds up nobody else.
func TestAListStreams(t *testing.T) {
	t.Parallel()
	seen := make(chan struct{})
	srv, _ := front(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path != "/api/v1/secrets" {
			_, _ = io.WriteString(w, `{"kind":"PodList","items":[]}`)
			return
		}
		item := `{"metadata":{"name":"s"},"data":{"k":"` + planted64 + `"}}`
		_, _ = io.WriteString(w, `{"kind":"SecretList","items":[`+item)
		for range 4 * bufferBytes / len(item) {
			_, _ = io.WriteString(w, ","+item)
		}
		w.(http.Flusher).Flush()
		select {
		case <-seen:
		case <-r.Context().Done():
			return
		}
		_, _ = io.WriteString(w, "]}")
	})
	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/api/v1/secrets", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer good")
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	start := make([]byte, 1024)
	if _, err := io.ReadFull(resp.Body, start); err != nil || !strings.HasPrefix(string(start), `{"kind":"SecretList"`) {
		t.Fatalf("%s %v", start, err)
	}
	if other, body := call(t, srv, "GET", "/api/v1/pods", nil, ""); other.StatusCode != http.StatusOK {
		t.Errorf("another client got %d %s", other.StatusCode, body)
	}
	close(seen)
	rest, err := io.ReadAll(resp.Body)
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(rest)), "]}") {
		t.Errorf("the end is missing: %v", err)
	}
	if s := string(start) + string(rest); strings.Contains(s, planted64) {
		t.Error("the value passed")
	}
}

func TestWatchEventsArriveOneByOne(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	srv, _ := front(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := range 3 {
			_, _ = fmt.Fprintf(w, `{"type":"ADDED","object":{"kind":"Secret","metadata":{"name":"s%d"},"data":{"k":"%s"}}}`+"\n", i, planted64)
			w.(http.Flusher).Flush()
			select {
			case <-next: // the client has seen it
			case <-r.Context().Done():
				return
			}
		}
	})
	req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL+"/api/v1/secrets?watch=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer good")
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	for i := range 3 {
		if !lines.Scan() || !strings.Contains(lines.Text(), fmt.Sprintf("s%d", i)) || strings.Contains(lines.Text(), planted64) {
			t.Fatalf("event %d: %q %v", i, lines.Text(), lines.Err())
		}
		next <- struct{}{}
	}
}

func TestALeavingClientEndsTheRequestAtTheAPIServer(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	srv, _ := front(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"type":"BOOKMARK","object":{"kind":"Pod"}}`+"\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(gone)
	})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", srv.URL+"/api/v1/pods?watch=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer good")
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = resp.Body.Close()
	<-gone // the test's own time limit is the bound
}

func TestNarrowAccept(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, in, want string
		ok             bool
	}{
		{"nothing asked means JSON", "", "application/json", true},
		{"anything means JSON", "*/*", "application/json", true},
		{"protobuf goes, JSON stays", "application/vnd.kubernetes.protobuf;as=Table, application/json", "application/json", true},
		{"a table stays a table", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "application/json; as=Table; g=meta.k8s.io; v=v1, application/json", true},
		{"YAML alone leaves nothing", "application/yaml", "", false},
		{"rubbish leaves nothing", ";;", "", false},
	} {
		got, ok := narrowAccept([]string{tc.in})
		if got != tc.want || ok != tc.ok {
			t.Errorf("%s: got %q %v", tc.name, got, ok)
		}
	}
}

// FuzzCheckPath: a path that is taken reads the same before and after cleaning
// and unescaping.
func FuzzCheckPath(f *testing.F) {
	for _, s := range []string{"/", "//", "/api/v1/pods", "/api//v1", "/api/%2e%2e/x", "/a%2fb", "/a%252fb", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		u, err := url.ParseRequestURI(in)
		if err != nil || checkPath(u) != nil {
			return
		}
		for _, part := range strings.Split(strings.Trim(u.Path, "/"), "/") {
			if part == "." || part == ".." || part == "" && u.Path != "/" {
				t.Errorf("%q was taken", in)
			}
		}
		if strings.Count(u.Path, "/") != strings.Count(u.EscapedPath(), "/") {
			t.Errorf("%q has other elements when unescaped", in)
		}
	})
}

func FuzzHeaders(f *testing.F) {
	f.Add("Impersonate-User", "x")
	f.Add("x-remote-extra-a", "x")
	f.Add("IMPERSONATE_GROUP", "x")
	f.Add("audit-ID", "x")
	f.Add("x-forwarded-uri", "x")
	f.Fuzz(func(t *testing.T, name, value string) {
		h := http.Header{name: {value}}
		cleanHeaders(h)
		for k := range h {
			if n := strings.ReplaceAll(strings.ToLower(k), "_", "-"); strings.HasPrefix(n, "impersonate-") || strings.HasPrefix(n, "x-remote-") || strings.HasPrefix(n, "x-forwarded-") || n == "audit-id" || n == "x-real-ip" {
				t.Errorf("%q came through", k)
			}
		}
		_, _ = narrowAccept([]string{value})
	})
}

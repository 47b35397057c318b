package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

// aRun is one that planted the value in a Secret, and asks a server of the test's.
func aRun(t testing.TB, serve http.HandlerFunc) (*run, *holder) {
	t.Helper()
	b := &builder{namespace: "ns", suffix: "abc"}
	h, _ := b.secret("opaque", "Opaque")
	h.plant("secret-data", whole(planted))
	r := &run{unknown: map[string]string{}, holders: []*holder{h}}
	if err := r.lookFor(h.values); err != nil {
		t.Fatal(err)
	}
	if serve != nil {
		s := httptest.NewServer(serve)
		t.Cleanup(s.Close)
		var err error
		if r.agent, err = newClient(&rest.Config{Host: s.URL}); err != nil {
			t.Fatal(err)
		}
	}
	return r, h
}

func TestCheckIsOKOnlyIfTheObjectWasSeen(t *testing.T) {
	t.Parallel()
	const object = `{"kind":"Secret","metadata":{"name":"opaque-abc"},"data":{"password":%q}}`
	for _, tc := range []struct {
		name   string
		code   int
		body   string
		header string
		quotes []int
		want   Result
		reason string
	}{
		{"the object, masked", 200, fmt.Sprintf(object, "bWFzaw=="), "", nil, OK, ""},
		{"the object with its value", 200, fmt.Sprintf(object, b64(planted)), "", nil, Leak, ""},
		{"a piece of the value in an error", 403, `{"kind":"Status","message":"not ` + planted[:windowBytes-2] + `%\""}`, "", nil, Leak, ""},
		{"the value in a header", 200, fmt.Sprintf(object, "bWFzaw=="), "299 - " + b64(planted), nil, Leak, ""},
		{"another object", 200, `{"kind":"Secret","metadata":{"name":"other"}}`, "", nil, Skipped, "200, without the object"},
		{"an empty answer", 200, "", "", nil, Skipped, "200, without the object"},
		{"a refusal that names the object", 403, `{"kind":"Status","reason":"Forbidden","message":"secrets \"opaque-abc\" is forbidden"}`, "", nil, Skipped, `403 Forbidden: secrets "opaque-abc" is forbidden`},
		{"a hold", 429, `{"kind":"Status","reason":"TooManyRequests","message":"held by rule"}`, "", nil, Skipped, "429 held: held by rule"},
		{"the error that would quote it", 422, `{"kind":"Status","reason":"Invalid","message":"masked"}`, "", []int{422}, OK, "answered 422"},
		{"another error", 400, `{"kind":"Status","reason":"BadRequest","message":"no"}`, "", []int{422}, Skipped, "400 BadRequest: no"},
		{"no JSON", 502, "<html>", "", nil, Skipped, "502 Bad Gateway"},
	} {
		r, h := aRun(t, func(w http.ResponseWriter, _ *http.Request) {
			if tc.header != "" {
				w.Header().Set("Warning", tc.header)
			}
			w.WriteHeader(tc.code)
			_, _ = w.Write([]byte(tc.body))
		})
		r.check(t.Context(), &read{name: "get", quotes: tc.quotes}, h, "/api/v1/namespaces/ns/secrets/opaque-abc", []*holder{h})
		if len(r.cells) != 1 || r.cells[0].Result != tc.want || r.cells[0].Reason != tc.reason {
			t.Errorf("%s: %+v", tc.name, r.cells)
			continue
		}
		if c := r.cells[0]; tc.want == Leak && (c.Where == "" || c.Form == "" || !strings.HasPrefix(c.Reproduce, "kubectl get --raw '/api/v1/")) {
			t.Errorf("%s: can't be found again: %+v", tc.name, c)
		}
		if b, _ := json.Marshal(r.report("ns")); len(r.scanner.Scan(b)) > 0 {
			t.Errorf("%s: the report holds the value: %s", tc.name, b)
		}
	}
}

func TestPagesAreReadToTheLast(t *testing.T) {
	t.Parallel()
	var asked []string
	r, h := aRun(t, func(w http.ResponseWriter, req *http.Request) {
		asked = append(asked, req.URL.RawQuery)
		switch len(asked) {
		case 1:
			_, _ = w.Write([]byte(`{"kind":"SecretList","metadata":{"continue":"two"},"items":[{"metadata":{"name":"opaque-abc"}}]}`))
		default:
			_, _ = w.Write([]byte(`{"kind":"SecretList","metadata":{},"items":[{"metadata":{"name":"next"},"data":{"k":"` + b64(planted) + `"}}]}`))
		}
	})
	r.check(t.Context(), &read{name: "pages", query: "limit=1", pages: true}, h, "/api/v1/namespaces/ns/secrets", []*holder{h})
	if !slices.Equal(asked, []string{"limit=1", "limit=1&continue=two"}) || len(r.cells) != 1 || r.cells[0].Where != "items[0].data.k" {
		t.Errorf("asked %q: %+v", asked, r.cells)
	}
}

func TestNoAnswerIsSkipped(t *testing.T) {
	t.Parallel()
	r, h := aRun(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	r.check(t.Context(), &read{name: "get"}, h, "/x", []*holder{h})
	if len(r.cells) != 1 || r.cells[0].Result != Skipped || !strings.HasPrefix(r.cells[0].Reason, "no answer: ") {
		t.Errorf("%+v", r.cells)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.readAll(ctx); err == nil || len(r.cells) != 1 {
		t.Errorf("after its end: %v, %d checks", err, len(r.cells))
	}
}

func TestBothProtocolsAreSpoken(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.Proto)) }))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	c, err := newClient(&rest.Config{Host: s.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	if err != nil {
		t.Fatal(err)
	}
	for http1, want := range map[bool]string{true: "HTTP/1.1", false: "HTTP/2.0"} {
		a, err := c.do(t.Context(), request{method: http.MethodGet, path: "/", http1: http1})
		if err != nil || string(a.body) != want {
			t.Errorf("got %s, %v; want %s", a.body, err, want)
		}
	}
}

func TestOnly(t *testing.T) {
	t.Parallel()
	r := &run{opts: Options{Only: []string{"configmap-*", "secret-tls/watch*"}}}
	for _, tc := range []struct {
		place, read  string
		plant, check bool
	}{
		{"configmap-jwt", "get-json", true, true},
		{"secret-tls", "watch-list", true, true},
		{"secret-tls", "get-json", true, false},
		{"secret-data", "watch-list", false, false},
	} {
		if r.wanted(tc.place) != tc.plant || r.wants(tc.place, tc.read) != tc.check {
			t.Errorf("%+v", tc)
		}
	}
	all := build(&builder{namespace: "ns", suffix: "abc"}, true, func(place string) bool { return place == "known-value-event" })
	if len(all) != 2 || all[0].name() != "known-abc" || all[1].name() != "event-abc" {
		t.Errorf("what is known is planted with its source: %d objects", len(all))
	}
}

// Every value can be looked for, every name is the place's own, and no read has
// another's name.
func TestTablesHold(t *testing.T) {
	t.Parallel()
	all := build(&builder{namespace: "ns", suffix: "abc"}, true, func(string) bool { return true })
	var values []Value
	for _, h := range all {
		values = append(values, h.values...)
		if !strings.Contains(h.name(), "abc") && h.namespace() == "ns" {
			t.Errorf("%s could be anybody's", h.name())
		}
		written := []byte(compact(h.object))
		s, err := NewScanner(h.values)
		if err != nil {
			t.Fatal(err)
		}
		if hits := s.Scan(written); len(hits) != len(h.values) {
			t.Errorf("%s: %d of %d values are in it", h.name(), len(hits), len(h.values))
		}
	}
	if _, err := NewScanner(values); err != nil {
		t.Error(err)
	}
	seen := map[string]bool{}
	for _, reads := range [][]read{objectReads, listReads} {
		for _, rd := range reads {
			if strings.ContainsAny(rd.name, "/ ") {
				t.Errorf("read %q can't be named in a pattern", rd.name)
			}
			if seen[rd.name] && rd.name != "watch-legacy-path" {
				t.Errorf("two reads are called %s", rd.name)
			}
			seen[rd.name] = true
		}
	}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ got, want string }{
		{objectPath(secrets, "ns", "n"), "/api/v1/namespaces/ns/secrets/n"},
		{objectPath(csrs, "", "n"), "/apis/certificates.k8s.io/v1/certificatesigningrequests/n"},
		{legacyWatch(objectPath(secrets, "ns", "")), "/api/v1/watch/namespaces/ns/secrets"},
		{legacyWatch(objectPath(deployments, "ns", "n")), "/apis/apps/v1/watch/namespaces/ns/deployments/n"},
		{escapeAll("a/"), "%61%2f"},
		{shell(`it's`), `'it'\''s'`},
	} {
		if tc.got != tc.want {
			t.Errorf("got %s, want %s", tc.got, tc.want)
		}
	}
}

func TestDifference(t *testing.T) {
	t.Parallel()
	of := func(s string) map[string]any {
		var o map[string]any
		if err := json.Unmarshal([]byte(s), &o); err != nil {
			t.Fatal(err)
		}
		return content(o)
	}
	a := of(`{"data":{"k":"v"},"metadata":{"resourceVersion":"1","annotations":{"a":"{\"x\":1}","b":"t"}},"status":{"n":1},"list":[{"n":1}]}`)
	for _, tc := range []struct{ name, b, want string }{
		{"what the server writes", `{"data":{"k":"v"},"metadata":{"resourceVersion":"2","annotations":{"a":"{ \"x\": 1 }","b":"t"}},"status":{"n":2},"list":[{"n":1}]}`, ""},
		{"a value", `{"data":{"k":"w"},"metadata":{"annotations":{"a":"{\"x\":1}","b":"t"}},"list":[{"n":1}]}`, "data.k"},
		{"one that is gone", `{"data":{},"metadata":{"annotations":{"a":"{\"x\":1}","b":"t"}},"list":[{"n":1}]}`, "data.k"},
		{"one more", `{"data":{"k":"v","l":""},"metadata":{"annotations":{"a":"{\"x\":1}","b":"t"}},"list":[{"n":1}]}`, "data.l"},
		{"within an annotation", `{"data":{"k":"v"},"metadata":{"annotations":{"a":"{\"x\":2}","b":"t"}},"list":[{"n":1}]}`, "metadata.annotations.a.x"},
		{"within a list", `{"data":{"k":"v"},"metadata":{"annotations":{"a":"{\"x\":1}","b":"t"}},"list":[{"n":2}]}`, "list[0].n"},
	} {
		if got := difference(a, of(tc.b), ""); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestTokenIsKnown(t *testing.T) {
	t.Parallel()
	if c := jwt(); !holdsToken([]byte(`{"status":{"token":"` + c.text + `"}}`)) {
		t.Error("a token is not seen")
	}
	for _, text := range []string{`{"status":{"token":"tipstaff-masked-0123456789abcdef0123"}}`, "eyJ.eyJ.x", "eyJ", strings.Repeat("eyJ.", 1000)} {
		if holdsToken([]byte(text)) {
			t.Errorf("%.20s is no token", text)
		}
	}
}

func TestReportSaysWhatWasNotRead(t *testing.T) {
	t.Parallel()
	r := &run{cells: []Cell{
		{Place: "b", Read: "get", Result: Leak, Path: "/b", Where: "data.k", Form: "plain", Reproduce: "kubectl get --raw '/b'"},
		{Place: "a", Read: "get", Result: OK, Path: "/a"},
		{Place: "c", Read: "get", Result: Skipped, Path: "/c", Reason: "403 Forbidden: no"},
		{Place: "b", Read: "put", Result: Overwritten, Path: "/b", Where: "data.k", Form: "a mark", Reproduce: "curl"},
	}}
	rep := r.report("ns")
	if got, want := rep.Summary(), "4 checks: 1 ok, 1 leaks, 1 overwritten, 1 skipped; not read at all: c"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	var b strings.Builder
	if err := rep.Write(&b, true); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"LEAK b by get\n  data.k: plain\n  kubectl get --raw '/b'", "OVERWRITTEN b by put", "   1 × get: 403 Forbidden: no"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("without %q:\n%s", want, b.String())
		}
	}
}

// Whatever a server answers, the report holds nothing of a planted value.
func FuzzAnswer(f *testing.F) {
	f.Add(200, []byte(`{"kind":"Secret","metadata":{"name":"opaque-abc"},"data":{"k":"`+b64(planted)+`"}}`))
	f.Add(403, []byte(`{"kind":"Status","reason":`+quoted(planted)+`,"message":`+quoted("no: "+planted)+`}`))
	f.Add(200, []byte(`{"kind":"Secret",`+quoted(planted)+`:["opaque-abc",`+quoted(planted)+`]}`))
	f.Add(200, []byte(`{"type":"ADDED","object":{}}{"type":"ADDED","object":{"a":`+quoted(planted)+`}}`))
	f.Fuzz(func(t *testing.T, code int, body []byte) {
		r, h := aRun(t, nil)
		a := answer{code: code, header: http.Header{}, body: body}
		r.judge("get", request{method: http.MethodGet, path: "/p"}, a, nil, nil, []*holder{h})
		if len(r.cells) == 0 {
			t.Fatal("no check")
		}
		rep := r.report("ns")
		b, err := json.Marshal(rep)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.scanner.Scan(b)) > 0 {
			t.Errorf("the report holds the value: %s", b)
		}
		if leaked := len(r.scanner.Scan(a.whole())) > 0; leaked != (rep.Leaks > 0) {
			t.Errorf("leaked %v, %s", leaked, rep.Summary())
		}
	})
}

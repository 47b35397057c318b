package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/transport"
)

// identityOf are the headers by which a request says who it is for.
func identityOf(h http.Header) http.Header {
	out := http.Header{}
	for name, values := range h {
		n := strings.ReplaceAll(strings.ToLower(name), "_", "-")
		if strings.HasPrefix(n, "impersonate") || strings.HasPrefix(n, "x-remote") || n == "authorization" || n == "tipstaff-wait" || n == "cookie" {
			out[http.CanonicalHeaderKey(name)] = values
		}
	}
	return out
}

// wanted is what the proxy sends for agent.
func wanted(t testing.TB) http.Header {
	t.Helper()
	c, err := impersonation(agent)
	if err != nil {
		t.Fatal(err)
	}
	var got http.Header
	rt := transport.NewImpersonatingRoundTripper(c, tripper(func(r *http.Request) (*http.Response, error) {
		got = r.Header.Clone()
		return response(200, "{}"), nil
	}))
	if _, err := rt.RoundTrip(httptest.NewRequest(http.MethodGet, "/", nil)); err != nil {
		t.Fatal(err)
	}
	return identityOf(got)
}

func sameHeaders(a, b http.Header) bool {
	return len(a) == len(b) && fmt.Sprint(a) == fmt.Sprint(b) // fmt sorts the keys
}

// TestI1_BytesThatTwoReadersReadDifferently: whatever a client writes on its
// connection, the API server sees the agent and nothing else, or no request.
func TestI1_BytesThatTwoReadersReadDifferently(t *testing.T) {
	t.Parallel()
	const begin = "GET /api/v1/pods HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\n"
	want := wanted(t)
	want.Set("Authorization", "Bearer proxys-own")
	for _, tc := range []struct {
		name, request string
		code          int
	}{
		{"a folded line", begin + "X-A: b\r\n Impersonate-User: root\r\n\r\n", 200},
		{"a folded header of theirs", begin + "Impersonate-User:\r\n root\r\nImpersonate-Group: a,\r\n\tsystem:masters\r\n\r\n", 200},
		{"a space before the colon", begin + "Impersonate-User : root\r\n\r\n", 400},
		{"a tab before the colon", begin + "Impersonate-User\t: root\r\n\r\n", 400},
		{"a line that begins with a space", "GET /api/v1/pods HTTP/1.1\r\n Impersonate-User: root\r\nHost: x\r\nAuthorization: Bearer good\r\n\r\n", 400},
		{"lines that end with LF alone", begin + "X-A: b\nImpersonate-User: root\nX-Remote-User: root\r\n\r\n", 200},
		{"a bare CR in a value", begin + "X-A: b\rImpersonate-User: root\r\n\r\n", 400},
		{"a NUL in a value", begin + "X-A: b\x00Impersonate-User: root\r\n\r\n", 400},
		{"names in any case, twice", begin + "iMPERSONATE-uSER: root\r\nIMPERSONATE-USER: root\r\nimpersonate-group: a\r\nImpersonate-Group: system:masters\r\n\r\n", 200},
		{"names with underscores", begin + "Impersonate_User: root\r\nX_Remote_User: root\r\nx-remote_group: system:masters\r\nAUTHORIZATION_: Bearer x\r\n\r\n", 200},
		{"every header nominated by Connection", begin + "Connection: close, Impersonate-User, Impersonate-Group, Impersonate-Extra-Tipstaff.dev%2frun, Authorization, Accept\r\nImpersonate-User: root\r\n\r\n", 200},
		{"Connection twice", begin + "Connection: Impersonate-Group\r\nConnection: Impersonate-User\r\n\r\n", 200},
		{"an extra whose key is escaped in another way", begin + "Impersonate-Extra-Tipstaff.dev%2Frun: other\r\nImpersonate-Extra-tipstaff.dev/run: other\r\nImpersonate-Extra-tipstaff%2edev%2frun: other\r\n\r\n", 0},
		{"two tokens", begin + "Authorization: Bearer other\r\n\r\n", 401},
		{"a second token in lower case", begin + "authorization: Bearer other\r\n\r\n", 401},
		{"a trailer", "POST /api/v1/namespaces/a/configmaps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nTrailer: Impersonate-User\r\n\r\n2\r\n{}\r\n0\r\nImpersonate-User: root\r\n\r\n", 200},
		{"a length beside chunks", "POST /api/v1/namespaces/a/configmaps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nContent-Type: application/json\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\nGET /api/v1/secrets HTTP/1.1\r\nHost: x\r\nImpersonate-User: root\r\n\r\n", 0},
		{"two lengths", "POST /api/v1/namespaces/a/configmaps HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nContent-Length: 2\r\nContent-Length: 40\r\n\r\n{}", 400},
		{"the other server's address as the path", "GET http://other/api/v1/pods HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nImpersonate-User: root\r\n\r\n", 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var seen []*http.Request
			srv, _ := front(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body) // its trailer comes then
				mu.Lock()
				seen = append(seen, r)
				mu.Unlock()
				reply("application/json", `{"kind":"PodList","items":[]}`)(w, r)
			})
			conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if _, err := io.WriteString(conn, tc.request); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			mu.Lock()
			defer mu.Unlock()
			if tc.code != 0 && resp.StatusCode != tc.code || resp.StatusCode == 200 != (len(seen) == 1) || len(seen) > 1 {
				t.Errorf("code %d, %d requests", resp.StatusCode, len(seen))
			}
			for _, r := range seen {
				if got := identityOf(r.Header); !sameHeaders(got, want) || len(r.Trailer) > 0 || r.Host == "other" {
					t.Errorf("%s %s with %v, trailer %v", r.Method, r.URL, got, r.Trailer)
				}
			}
		})
	}
}

// TestNoTrailersGoUpstream, where the API server speaks HTTP/2: there they need
// no chunks.
func TestNoTrailersGoUpstream(t *testing.T) {
	t.Parallel()
	trailers := make(chan http.Header, 1)
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.ProtoMajor != 2 {
			t.Errorf("it is %s", r.Proto)
		}
		trailers <- r.Trailer
		reply("application/json", `{"kind":"ConfigMap"}`)(w, r)
	}))
	up.EnableHTTP2 = true
	up.StartTLS()
	t.Cleanup(up.Close)
	p, _ := before(t, mustNotCall(t), twoTokens{})
	p.answers = up.Client().Transport
	p.upstream.Host = up.Listener.Addr().String()
	srv := httptest.NewServer(p.Handler())
	t.Cleanup(srv.Close)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/api/v1/namespaces/a/configmaps", io.NopCloser(strings.NewReader("{}")))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Authorization": {"Bearer good"}, "Content-Type": {"application/json"}}
	req.Trailer = http.Header{"Impersonate-User": {"root"}}
	resp, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if got := <-trailers; resp.StatusCode != 200 || len(got) != 0 {
		t.Errorf("%d, trailers %v", resp.StatusCode, got)
	}
}

// FuzzRequest: of any bytes that are an HTTP request, what reaches the API server
// is for the agent alone and has one reading of its path.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET /api/v1/pods?watch=1 HTTP/1.1\r\nHost: x\r\nImpersonate-User: root\r\nConnection: Impersonate-Group\r\n\r\n",
		"GET /api/v1/watch/secrets HTTP/1.1\r\nHost: x\r\nX_Remote_User: root\r\nImpersonate-Extra-a%2fb: c\r\n\r\n",
		"GET /apis/apps/v1/namespaces/a/../b/deployments HTTP/1.1\r\nHost: x\r\n\r\n",
		"DELETE /api/v1/namespaces/a%2fb HTTP/1.1\r\nHost: x\r\nTipstaff-Wait: 1s\r\n\r\n",
		"POST /api/v1/namespaces/a/configmaps HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nImpersonate-User: root\r\n\r\n",
		"GET http://other//api HTTP/1.0\r\nCookie: a=b\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
		"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	p, _ := before(f, func(http.ResponseWriter, *http.Request) {}, twoTokens{})
	want := wanted(f)
	var sent *http.Request
	p.answers = tripper(func(r *http.Request) (*http.Response, error) {
		sent = r
		resp := response(200, `{"kind":"PodList","items":[]}`)
		resp.Request = r
		return resp, nil
	})
	p.streams = p.answers
	host := p.upstream.Host
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		r.Header["Authorization"] = []string{"Bearer good"}
		r.RemoteAddr = "192.0.2.1:1"
		sent = nil
		w := httptest.NewRecorder()
		p.Handler().ServeHTTP(w, r.WithContext(t.Context()))
		if sent == nil {
			if w.Code < 400 {
				t.Errorf("answered %d by itself", w.Code)
			}
			return
		}
		if got := identityOf(sent.Header); !sameHeaders(got, want) || len(sent.Trailer) > 0 || sent.URL.Host != host {
			t.Errorf("sent to %s with %v, trailer %v", sent.URL.Host, got, sent.Trailer)
		}
		parts := strings.Split(strings.Trim(sent.URL.Path, "/"), "/")
		if slices.Contains(parts, "..") || slices.Contains(parts, ".") || strings.Contains(sent.URL.Path, "//") || strings.Count(sent.URL.Path, "/") != strings.Count(sent.URL.EscapedPath(), "/") {
			t.Errorf("sent %q", sent.URL)
		}
	})
}

package authn

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"syscall"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	authenticationv1 "k8s.io/api/authentication/v1"
)

// The benchmarks measure a review in process, without TLS: what a review costs
// more than the constant handler is what must stay below 1.5 times go-oidc's
// Verify for a token never seen, and below half of an HTTPS request for one
// seen before. bench/ measures the same over HTTPS.

const benchTokens = 2000

// measureCPU reports the process's own CPU time, which other work on the machine
// moves less than the clock on the wall.
func measureCPU(b *testing.B) (done func()) {
	b.Helper()
	cpu := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	began := cpu()
	return func() { b.ReportMetric(float64(cpu()-began)/float64(b.N), "cpu-ns/op") }
}

// benchmarkReviews calls h with b.N reviews of the tokens in turn.
func benchmarkReviews(b *testing.B, h http.Handler, bodies [][]byte) {
	b.Helper()
	b.ReportAllocs()
	r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, "/tokenreview", nil)
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	defer measureCPU(b)()
	for i := 0; b.Loop(); i++ {
		body := bodies[i%len(bodies)]
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		w := &answerWriter{header: http.Header{}}
		h.ServeHTTP(w, r)
		if !w.authenticated {
			b.Fatal("a good token is refused")
		}
	}
}

// answerWriter is a ResponseWriter that only looks whether the answer says yes.
type answerWriter struct {
	header        http.Header
	authenticated bool
}

func (w *answerWriter) Header() http.Header { return w.header }
func (w *answerWriter) WriteHeader(int)     {}
func (w *answerWriter) Write(b []byte) (int, error) {
	w.authenticated = w.authenticated || bytes.Contains(b, []byte(`"authenticated":true`))
	return len(b), nil
}

// benchBodies are reviews of n different tokens of about 1 KB.
func benchBodies(b *testing.B, k key, p *provider, n int) (tokens []string, bodies [][]byte) {
	b.Helper()
	for i := range n {
		token := k.token(b, claimsOf(p.good()).but(claims{
			"jti": fmt.Sprint("t-", i), "run_id": fmt.Sprint("run-", i), "act": claims{"sub": "alice@example.com"},
			"model": "claude", "task": "fix the build", "profile": "deploy",
			"repository": "example/app", "ref": "refs/heads/main", "actor": "alice", "workflow": "deploy", "event_name": "push",
			"groups": []string{"one", "two", "three", "four", "five", "six"},
		}))
		tokens = append(tokens, token)
		bodies = append(bodies, reviewBody(b, token, "https://kubernetes.default.svc", "tipstaff"))
	}
	return tokens, bodies
}

func BenchmarkReviewConstant(b *testing.B) {
	p := newProvider(b)
	_, bodies := benchBodies(b, rsaKey("k1", 0), p, 1)
	benchmarkReviews(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			b.Fatal(err)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","status":{"authenticated":true,"user":{"username":"x"}}}`)
	}), bodies)
}

func BenchmarkVerifyOfGoOIDC(b *testing.B) {
	k := rsaKey("k1", 0)
	p := newProvider(b, k)
	tokens, _ := benchBodies(b, k, p, benchTokens)
	ctx := oidc.ClientContext(b.Context(), p.Client())
	provider, err := oidc.NewProvider(ctx, p.URL)
	if err != nil {
		b.Fatal(err)
	}
	v := provider.Verifier(&oidc.Config{SkipClientIDCheck: true, SupportedSigningAlgs: []string{"RS256", "ES256"}})
	b.ReportAllocs()
	defer measureCPU(b)()
	for i := 0; b.Loop(); i++ {
		if _, err := v.Verify(ctx, tokens[i%len(tokens)]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReviewFirst(b *testing.B) {
	k := rsaKey("k1", 0)
	p := newProvider(b, k)
	a := connected(b, &logs{}, p.issuer())
	a.tokens = newTokens(1) // and so none is remembered when its turn comes again
	_, bodies := benchBodies(b, k, p, benchTokens)
	benchmarkReviews(b, a.Handler(), bodies)
}

func BenchmarkReviewRepeated(b *testing.B) {
	k := rsaKey("k1", 0)
	p := newProvider(b, k)
	a := connected(b, &logs{}, p.issuer())
	_, bodies := benchBodies(b, k, p, 100)
	benchmarkReviews(b, a.Handler(), bodies)
}

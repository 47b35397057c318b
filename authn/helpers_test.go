package authn

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/access"
)

type claims = map[string]any

// key is one signing key.
type key struct {
	id      string
	alg     jose.SignatureAlgorithm
	private any
	public  any
}

var rsaKeys = sync.OnceValue(func() []*rsa.PrivateKey {
	var keys []*rsa.PrivateKey
	for range 2 {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		keys = append(keys, k)
	}
	return keys
})

func rsaKey(id string, n int) key {
	k := rsaKeys()[n]
	return key{id, jose.RS256, k, k.Public()}
}

func ecKey(t testing.TB, id string) key {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key{id, jose.ES256, k, k.Public()}
}

func (k key) sign(t testing.TB, header map[jose.HeaderKey]any, payload []byte) string {
	t.Helper()
	opts := &jose.SignerOptions{ExtraHeaders: header}
	opts.WithHeader("kid", k.id)
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: k.alg, Key: k.private}, opts)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := s.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (k key) token(t testing.TB, c claims) string {
	t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return k.sign(t, nil, b)
}

// raw joins parts to a token without any real signature.
func raw(header, payload string, signature []byte) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(header)) + "." + enc([]byte(payload)) + "." + enc(signature)
}

// provider is an OIDC issuer on real HTTPS.
type provider struct {
	*httptest.Server
	caFile   string
	fetches  atomic.Int64 // of the key set
	down     atomic.Bool
	answers  atomic.Int64 // with this status and nothing else, where it isn't zero
	mu       sync.Mutex
	keys     []key
	discover func(url string) any // nil: a proper document
}

func newProvider(t testing.TB, keys ...key) *provider {
	p := &provider{keys: keys}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		var doc any = map[string]any{"issuer": p.URL, "jwks_uri": p.URL + "/keys",
			"id_token_signing_alg_values_supported": []string{"RS256", "ES256", "HS256", "none"}}
		if p.discover != nil {
			doc = p.discover(p.URL)
		}
		_ = json.NewEncoder(w).Encode(doc)
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		p.fetches.Add(1)
		p.mu.Lock()
		defer p.mu.Unlock()
		set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
		for _, k := range p.keys {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.public, KeyID: k.id, Algorithm: string(k.alg), Use: "sig"})
		}
		_ = json.NewEncoder(w).Encode(set)
	})
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if code := p.answers.Load(); code != 0 && r.URL.Path == "/keys" {
			w.WriteHeader(int(code))
			return
		}
		if p.down.Load() {
			http.Error(w, "down for the test", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	p.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	p.StartTLS()
	t.Cleanup(p.Close)
	p.caFile = filepath.Join(t.TempDir(), "ca.pem")
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})
	if err := os.WriteFile(p.caFile, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *provider) rotate(keys ...key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = keys
}

// issuer is p as the config has it.
func (p *provider) issuer() Issuer {
	return Issuer{
		Name: "ci", URL: p.URL, CAFile: p.caFile, Audiences: []string{"tipstaff", "other-cluster"},
		Mappings: []Mapping{{
			Run: "claims.run_id", Model: `claims.?model.orValue("")`, Owner: `claims.?act.?sub.orValue("")`,
			Task: `claims.?task.orValue("")`, Profile: `claims.?profile.orValue("default")`,
		}},
	}
}

// good are claims of a token that holds.
func (p *provider) good() claims {
	now := time.Now()
	return claims{
		"iss": p.URL, "sub": "deployer", "aud": []string{"tipstaff"}, "jti": "t-1", "run_id": "run-7",
		"iat": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix(),
	}
}

// but is c with changes; nil removes a claim.
func (c claimsOf) but(changes claims) claims {
	out := maps.Clone(claims(c))
	for k, v := range changes {
		if v == nil {
			delete(out, k)
		} else {
			out[k] = v
		}
	}
	return out
}

type claimsOf map[string]any

// revokedRuns is a fake Revoked: run to reason.
type revokedRuns map[string]string

func (r revokedRuns) Revoked(a v1alpha1.Agent) (string, bool, error) {
	if r == nil {
		return "", false, ErrNotSynced
	}
	reason, ok := r[a.Run]
	return reason, ok, nil
}

// logs collects log lines.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newAuthenticator(t testing.TB, revoked Revoked, out *logs, issuers ...Issuer) *Authenticator {
	t.Helper()
	a, err := New(Config{Issuers: issuers}, access.Limits{}, revoked, nil, slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// connected is an Authenticator that has asked its issuers.
func connected(t testing.TB, out *logs, issuers ...Issuer) *Authenticator {
	t.Helper()
	a := newAuthenticator(t, revokedRuns{"run-revoked": "compromised"}, out, issuers...)
	for _, is := range a.issuers {
		if err := is.connect(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// reasonOf is why err refuses: "not ours", or a RefusedError's reason.
func reasonOf(t testing.TB, err error) string {
	t.Helper()
	var refused *RefusedError
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrNotOurs):
		return "not ours"
	case errors.As(err, &refused):
		return refused.Reason
	}
	t.Fatalf("error of an unknown kind: %v", err)
	return ""
}

func authenticate(t testing.TB, a *Authenticator, token string) (v1alpha1.Agent, string) {
	t.Helper()
	agent, err := a.Authenticate(context.WithoutCancel(t.Context()), token)
	if err != nil && agent != (v1alpha1.Agent{}) {
		t.Fatalf("an agent besides an error: %+v", agent)
	}
	return agent, reasonOf(t, err)
}

// signRS256 signs with whatever key it is given.
func signRS256(t testing.TB, private *rsa.PrivateKey, id string, payload []byte) string {
	t.Helper()
	head := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","kid":"`+id+`"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	sum := sha256.Sum256([]byte(head))
	signature, err := rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return head + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// ensured is a fake Bindings that notes what it is asked.
type ensured struct {
	mu    sync.Mutex
	calls []ensureCall
	err   error
}

type ensureCall struct {
	agent  v1alpha1.Agent
	access []v1alpha1.Access
	until  time.Time
}

func (e *ensured) Ensure(_ context.Context, a v1alpha1.Agent, access []v1alpha1.Access, until time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls = append(e.calls, ensureCall{a, access, until})
	return e.err
}

func (e *ensured) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.calls)
}

// withProfiles is an Authenticator with profiles that has asked its issuers.
func withProfiles(t testing.TB, b Bindings, out *logs, limits access.Limits, profiles []Profile, issuers ...Issuer) *Authenticator {
	t.Helper()
	a, err := New(Config{Issuers: issuers, Profiles: profiles}, limits, revokedRuns{"run-revoked": "compromised"}, b, slog.New(slog.NewTextHandler(out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for _, is := range a.issuers {
		if err := is.connect(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

package bench

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
)

const audience = "tipstaff"

// identity is one certificate for everybody in a run of the bench: it is its own
// CA, the servers', and the callers', whom the API server takes for an admin.
type identity struct {
	dir  string
	cert tls.Certificate
	pool *x509.CertPool
}

func newIdentity(dir string) (*identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the bench's key: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: callerName, Organization: []string{"system:masters"}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make the bench's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	id := &identity{dir: dir, cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool: x509.NewCertPool()}
	id.pool.AddCert(leaf)
	return id, errors.Join(
		os.WriteFile(certFile(dir), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(keyFile(dir), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
}

// callerName is the common name that tipstaff is told to expect.
const callerName = "kube-apiserver"

func certFile(dir string) string { return filepath.Join(dir, "bench.crt") }
func keyFile(dir string) string  { return filepath.Join(dir, "bench.key") }

// client is the TLS of a caller: 1.3, P-256, HTTP/1.1.
func (id *identity) client() *tls.Config {
	return &tls.Config{
		RootCAs: id.pool, Certificates: []tls.Certificate{id.cert}, MinVersion: tls.VersionTLS13,
		CurvePreferences: []tls.CurveID{tls.CurveP256}, NextProtos: []string{"http/1.1"},
	}
}

func (id *identity) httpClient() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: id.client()}}
}

// platform is the one issuer: discovery and keys over HTTPS, and as many
// tokens as asked for.
type platform struct {
	url  string
	keys map[string]jose.SigningKey // by algorithm
}

func newPlatform(id *identity) (*platform, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &platform{url: "https://" + l.Addr().String(), keys: map[string]jose.SigningKey{}}
	var public jose.JSONWebKeySet
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	for alg, key := range map[jose.SignatureAlgorithm]crypto.Signer{jose.RS256: rsaKey, jose.ES256: ecKey, jose.EdDSA: edKey} {
		p.keys[string(alg)] = jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: string(alg)}}
		public.Keys = append(public.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: string(alg), Algorithm: string(alg), Use: "sig"})
	}
	mux := http.NewServeMux()
	answer := func(path string, doc any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(doc) // the caller sees a cut answer
		})
	}
	answer("/.well-known/openid-configuration", map[string]any{
		"issuer": p.url, "jwks_uri": p.url + "/keys", "id_token_signing_alg_values_supported": []string{"RS256", "ES256", "EdDSA"},
	})
	answer("/keys", public)
	srv := &http.Server{Handler: mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{id.cert}, MinVersion: tls.VersionTLS12}}
	go func() { _ = srv.ServeTLS(l, "", "") }() // as long as the bench
	return p, nil
}

// signer makes tokens of one algorithm. It is for one goroutine.
type signer struct {
	p      *platform
	signer jose.Signer
}

func (p *platform) signer(alg string) (*signer, error) {
	s, err := jose.NewSigner(p.keys[alg], (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, fmt.Errorf("make a signer of %s: %w", alg, err)
	}
	return &signer{p, s}, nil
}

// token is the nth token, of a run of its own: about 1 KB and 6 groups, as
// platforms issue them.
func (s *signer) token(n int) (string, error) {
	now := time.Now()
	payload, err := json.Marshal(map[string]any{
		"iss": s.p.url, "sub": "repo:example/shop:environment:production", "aud": audience,
		"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(2 * time.Hour).Unix(), "jti": fmt.Sprintf("token-%08d", n),
		"run_id": fmt.Sprintf("run-%08d", n), "model": "some-model-4.5", "act": map[string]any{"sub": "alice@example.com"},
		"task": "bring the deployment to the release of this week", "profile": "deploy",
		"groups":       []string{"platform:developers", "platform:deployers", "team:shop", "team:checkout", "region:eu", "tier:production"},
		"repository":   "example/shop",
		"workflow_ref": "example/shop/.github/workflows/deploy.yaml@refs/heads/main",
		"ref":          "refs/heads/main", "ref_type": "branch", "sha": "6e9bb1c86e9bb1c86e9bb1c86e9bb1c86e9bb1c8", "event_name": "workflow_dispatch",
		"runner_environment": "hosted", "attempt": "1",
	})
	if err != nil {
		return "", err
	}
	jws, err := s.signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}

// tokens signs n of them on all cores: RS256 costs 0.8 ms each.
func (p *platform) tokens(alg string, n int) ([]string, error) {
	all := make([]string, n)
	var g errgroup.Group
	for part := range runtime.NumCPU() {
		g.Go(func() error {
			s, err := p.signer(alg)
			for i := part; i < n && err == nil; i += runtime.NumCPU() {
				all[i], err = s.token(i)
			}
			return err
		})
	}
	return all, g.Wait()
}

// reviewOf is a TokenReview as the API server sends it.
func reviewOf(token string) ([]byte, error) {
	r := authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{audience}}}
	r.APIVersion, r.Kind = authenticationv1.SchemeGroupVersion.String(), "TokenReview"
	return json.Marshal(r)
}

func reviewsOf(tokens []string) ([][]byte, error) {
	var all [][]byte
	for _, t := range tokens {
		b, err := reviewOf(t)
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	return all, nil
}

// each gives every review once.
func each(reviews [][]byte) feed {
	var mu sync.Mutex
	return func() ([]byte, bool) {
		mu.Lock()
		defer mu.Unlock()
		if len(reviews) == 0 {
			return nil, false
		}
		r := reviews[0]
		reviews = reviews[1:]
		return r, true
	}
}

// again gives the same reviews over and over.
func again(reviews [][]byte) feed {
	var mu sync.Mutex
	var i int
	return func() ([]byte, bool) {
		mu.Lock()
		defer mu.Unlock()
		i++
		return reviews[i%len(reviews)], true
	}
}

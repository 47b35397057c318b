package issuer

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

func start(t *testing.T) (*Provider, *Client) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(l, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, []string{"tipstaff"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return p, &Client{URL: p.URL, AdminSecret: p.AdminSecret, Roots: roots}
}

func TestMint(t *testing.T) {
	t.Parallel()
	p, c := start(t)
	for _, tc := range []struct {
		name   string
		claims Claims
		want   map[string]any
	}{
		{
			"a token carries the run's claims, nested ones too",
			Claims{Subject: "coder", Private: map[string]any{"run": "r1", "act": map[string]any{"sub": "ada"}}},
			map[string]any{"sub": "coder", "run": "r1", "act": map[string]any{"sub": "ada"}, "iss": p.URL, "aud": []any{"tipstaff"}},
		},
		{
			"a private claim can't replace the issuer",
			Claims{Private: map[string]any{"iss": "https://elsewhere"}},
			map[string]any{"iss": p.URL, "sub": "agent"},
		},
		{
			"a registration may ask for another audience",
			Claims{Audiences: []string{"other"}},
			map[string]any{"aud": []any{"other"}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			token, err := c.Mint(t.Context(), tc.claims)
			if err != nil {
				t.Fatal(err)
			}
			got := verify(t, c, token)
			for k, want := range tc.want {
				if g, w := enc(t, got[k]), enc(t, want); g != w {
					t.Errorf("claim %s = %s, want %s", k, g, w)
				}
			}
			if got["jti"] == nil || got["exp"] == nil || got["iat"] == nil {
				t.Errorf("claims lack jti, exp or iat: %v", got)
			}
		})
	}
}

// verify checks a token's signature with the provider's published keys.
func verify(t *testing.T, c *Client, token string) map[string]any {
	t.Helper()
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.Roots}}}
	get := func(url string, out any) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := do(hc, req, out); err != nil {
			t.Fatalf("%s: %v", url, err)
		}
	}
	var disco struct {
		JWKSURI string `json:"jwks_uri"`
	}
	get(c.URL+"/.well-known/openid-configuration", &disco)
	var keys jose.JSONWebKeySet
	get(disco.JWKSURI, &keys)
	sig, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := sig.Verify(keys.Keys[0])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func TestRegisterNeedsTheSecret(t *testing.T) {
	t.Parallel()
	_, c := start(t)
	c.AdminSecret = "guess"
	_, err := c.Mint(t.Context(), Claims{Private: map[string]any{"run": "r"}})
	if err == nil || !strings.Contains(err.Error(), "401 Unauthorized: the admin secret is needed") {
		t.Fatalf("err = %v, want a 401", err)
	}
}

func FuzzParseRegistration(f *testing.F) {
	f.Add([]byte(`{"subject":"a","claims":{"run":"r","act":{"sub":"x"}},"lifetimeSeconds":60}`))
	f.Add([]byte(`{"subject":""}`))
	f.Add([]byte(`{"subject":"a"}{}`))
	f.Add([]byte(`{"subject":"a","lifetimeSeconds":99999999999}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		reg, err := parseRegistration(io.LimitReader(bytes.NewReader(b), maxBodyBytes))
		if err == nil && (reg.Subject == "" || reg.LifetimeSeconds < 0) {
			t.Errorf("accepted %+v", reg)
		}
	})
}

func enc(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

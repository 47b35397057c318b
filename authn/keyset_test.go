package authn

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func keySetOf(t testing.TB, keys ...jose.JSONWebKey) []byte {
	t.Helper()
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: append([]jose.JSONWebKey{}, keys...)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (k key) jwk() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.public, KeyID: k.id, Algorithm: string(k.alg), Use: "sig"}
}

// weakRSA is a public key of that many bits; nobody has its private half.
func weakRSA(t testing.TB, bits int) *rsa.PublicKey {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits-1)))
	if err != nil {
		t.Fatal(err)
	}
	n.SetBit(n, bits-1, 1).SetBit(n, 0, 1)
	return &rsa.PublicKey{N: n, E: 65537}
}

func TestOnlyKeysThatMaySignTokensAreKept(t *testing.T) {
	t.Parallel()
	good, ec := rsaKey("good", 0), ecKey(t, "ec")
	ed, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name string
		key  jose.JSONWebKey
		kept bool
	}{
		{"RSA of 2048 bits", good.jwk(), true},
		{"EC", ec.jwk(), true},
		{"Ed25519", jose.JSONWebKey{Key: ed, KeyID: "ed"}, true},
		{"a key without a use", jose.JSONWebKey{Key: good.public, KeyID: "x"}, true},
		{"SPIFFE's use", jose.JSONWebKey{Key: ec.public, KeyID: "x", Use: "jwt-svid"}, true},
		{"RSA of 2047 bits", jose.JSONWebKey{Key: weakRSA(t, 2047), KeyID: "x"}, false},
		{"RSA of 1024 bits", jose.JSONWebKey{Key: weakRSA(t, 1024), KeyID: "x"}, false},
		{"RSA that costs too much", jose.JSONWebKey{Key: weakRSA(t, 16384), KeyID: "x"}, false},
		{"a key for encryption", jose.JSONWebKey{Key: good.public, KeyID: "x", Use: "enc"}, false},
		{"X.509 keys of a SPIFFE bundle", jose.JSONWebKey{Key: ec.public, KeyID: "x", Use: "x509-svid"}, false},
		{"a symmetric key", jose.JSONWebKey{Key: []byte("secret secret secret secret"), KeyID: "x"}, false},
		{"a private key", jose.JSONWebKey{Key: private, KeyID: "x"}, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			kept, err := usableKeys(keySetOf(t, row.key))
			if err != nil || (len(kept) == 1) != row.kept {
				t.Errorf("kept %d, %v", len(kept), err)
			}
		})
	}
	var many []jose.JSONWebKey
	for i := range maxKeys + 1 {
		many = append(many, jose.JSONWebKey{Key: ec.public, KeyID: fmt.Sprint(i)})
	}
	for name, row := range map[string]struct{ set, want string }{
		"too many keys":       {string(keySetOf(t, many...)), "holds more than 64 keys"},
		"no list":             {`{}`, "is no JSON Web Key Set"},
		"a list that is null": {`{"keys":null}`, "is no JSON Web Key Set"},
		"two lists":           {`{"keys":[],"keys":[]}`, "is no JSON Web Key Set"},
		"a page of HTML":      {`<html>`, "is no JSON Web Key Set"},
		"an empty list":       {`{"keys":[]}`, ""},
		"keys of other kinds": {`{"keys":[{"kty":"OKP","crv":"Ed448","x":"AA"},{"kty":"new"},7,{}]}`, ""},
	} {
		out, err := readKeySet([]byte(row.set))
		if got := fmt.Sprint(err); row.want != "" && got != row.want || row.want == "" && (err != nil || string(out) != `{"keys":[]}`) {
			t.Errorf("%s: %s %v", name, out, err)
		}
	}
}

// TestI1_AWeakKeyVerifiesNothing has an issuer that signs with 1,536 bits.
func TestI1_AWeakKeyVerifiesNothing(t *testing.T) {
	t.Parallel()
	private, err := rsa.GenerateKey(rand.Reader, 1536)
	if err != nil {
		t.Fatal(err)
	}
	weak := key{"weak", jose.RS256, private, private.Public()}
	p := newProvider(t, weak)
	a := connected(t, &logs{}, p.issuer())
	// go-jose signs with it only at 2048 bits and more; so by hand.
	payload, err := json.Marshal(p.good())
	if err != nil {
		t.Fatal(err)
	}
	token := signRS256(t, private, "weak", payload)
	if _, reason := authenticate(t, a, token); reason != `issuer "ci": `+malformed {
		t.Errorf("got %q", reason)
	}
}

func writeKeySet(t testing.TB, name string, keys ...key) {
	t.Helper()
	var set []jose.JSONWebKey
	for _, k := range keys {
		set = append(set, k.jwk())
	}
	// As an atomic replacement, the way ConfigMaps are mounted.
	if err := os.WriteFile(name+".new", keySetOf(t, set...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until got is want.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for !ok() {
		select {
		case <-t.Context().Done():
			t.Fatal("never: " + what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func TestAKeySetFileServesWithoutTheIssuer(t *testing.T) {
	t.Parallel()
	k1, k2 := rsaKey("k1", 0), rsaKey("k2", 1)
	p := newProvider(t, k1)
	p.down.Store(true)
	is := p.issuer()
	is.CAFile, is.KeySetFile = "", filepath.Join(t.TempDir(), "keys.json")
	writeKeySet(t, is.KeySetFile, k1)
	if errs := is.validate(field.NewPath("i")); len(errs) > 0 {
		t.Fatal(errs)
	}
	out := &logs{}
	a := newAuthenticator(t, revokedRuns{}, out, is)
	a.issuers[p.URL].fileInterval = time.Millisecond
	a.issuers[p.URL].firstRetry = time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-a.Tried()
	one, two := k1.token(t, p.good()), k2.token(t, p.good())
	accepted := func(token string) bool {
		_, reason := authenticate(t, a, token)
		return reason == ""
	}
	if !accepted(one) || accepted(two) {
		t.Fatal("the file's key alone must verify")
	}
	before := a.issuers[p.URL].keys.Load()
	writeKeySet(t, is.KeySetFile, k2)
	eventually(t, "the new key verifies and the old one does not", func() bool { return accepted(two) && !accepted(one) })
	if a.issuers[p.URL].keys.Load() == before {
		t.Error("the old set of keys is still there")
	}
	// A file that is half there, or gone, costs no key.
	if err := os.WriteFile(is.KeySetFile, []byte(`{"keys":[{`), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is said", func() bool { return strings.Contains(out.String(), "is no JSON Web Key Set") })
	if err := os.Remove(is.KeySetFile); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is said", func() bool { return strings.Contains(out.String(), "no such file") })
	if !accepted(two) {
		t.Error("the last key is gone with the file")
	}
	if p.fetches.Load() != 0 {
		t.Error("the issuer was asked")
	}
}

func TestAnUnchangedKeySetFileKeepsWhatWasVerified(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	is := p.issuer()
	is.CAFile, is.KeySetFile = "", filepath.Join(t.TempDir(), "keys.json")
	writeKeySet(t, is.KeySetFile, k)
	a := connected(t, &logs{}, is)
	before := a.issuers[p.URL].keys.Load()
	if err := a.issuers[p.URL].connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a.issuers[p.URL].keys.Load() != before {
		t.Error("the same file is another set of keys")
	}
}

func TestAnIssuerThatDripsIsGivenUp(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	p.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	a := newAuthenticator(t, revokedRuns{}, &logs{}, p.issuer())
	is := a.issuers[p.URL]
	is.fetchTimeout = 50 * time.Millisecond
	if err := is.connect(t.Context()); err == nil || !strings.Contains(err.Error(), "exceeded") {
		t.Errorf("got %v", err)
	}
}

func TestAHugeKeySetIsCutOff(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "keys.json")
	huge := `{"keys":[],"pad":"` + strings.Repeat("x", maxDocumentBytes) + `"}`
	if err := os.WriteFile(name, []byte(huge), 0o600); err != nil {
		t.Fatal(err)
	}
	if why := badKeySetFile(name); !strings.Contains(why, "is larger than") {
		t.Errorf("got %q", why)
	}
	f := &fetcher{next: answers(huge), now: time.Now, log: slog.New(slog.DiscardHandler), read: readKeySet, timeout: time.Second, docs: map[string]*document{}}
	if err := fetchKeys(t.Context(), f.client(), "https://issuer.example/keys"); err == nil || !strings.Contains(err.Error(), "is larger than") {
		t.Errorf("got %v", err)
	}
}

// answers is a RoundTripper that answers every request with itself.
type answers string

func (a answers) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(string(a)))}, nil
}

// FuzzKeySet holds that what is kept of a key set may sign, and nothing more is
// lost when it is read again.
func FuzzKeySet(f *testing.F) {
	good, ec := rsaKey("good", 0), ecKey(f, "ec")
	f.Add(keySetOf(f, good.jwk(), ec.jwk()))
	f.Add(keySetOf(f, jose.JSONWebKey{Key: weakRSA(f, 1024)}, jose.JSONWebKey{Key: []byte("secret")}))
	f.Add([]byte(`{"keys":[]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Add(bytes.Repeat([]byte(`{"keys":[`), 1000))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := readKeySet(b)
		if err != nil {
			if len(err.Error()) > 100 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		var set jose.JSONWebKeySet
		if err := json.Unmarshal(out, &set); err != nil {
			t.Fatal(err)
		}
		for i := range set.Keys {
			if !mayVerify(&set.Keys[i]) {
				t.Errorf("kept %T with use %q", set.Keys[i].Key, set.Keys[i].Use)
			}
		}
		again, err := readKeySet(out)
		if err != nil || !bytes.Equal(again, out) {
			t.Errorf("read again: %s %v", again, err)
		}
	})
}

// FuzzDiscovery holds that whatever an issuer answers to discovery, keys come
// over https alone, and what is said of it stays short.
func FuzzDiscovery(f *testing.F) {
	const url = "https://issuer.example"
	f.Add(`{"issuer":"https://issuer.example","jwks_uri":"https://issuer.example/keys"}`)
	f.Add(`{"issuer":"https://issuer.example","jwks_uri":"http://issuer.example/keys"}`)
	f.Add(`{"issuer":"https://issuer.example","jwks_uri":"file:///etc/passwd"}`)
	f.Add(`{"issuer":"` + strings.Repeat("x", 5000) + `"}`)
	f.Add(`{"issuer":"https://issuer.example","jwks_uri":["x"]}`)
	f.Add(strings.Repeat(`{"a":`, 5000))
	f.Fuzz(func(t *testing.T, doc string) {
		is := &issuer{name: "ci", url: url, now: time.Now, log: slog.New(slog.DiscardHandler), fetchTimeout: time.Second}
		got, err := is.discover(t.Context(), is.newFetcher(answers(doc)))
		if err != nil {
			if len(err.Error()) > maxErrorBytes+100 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		fetched := &schemes{}
		fk := is.newFetcher(fetched)
		_ = fetchKeys(t.Context(), fk.client(), got) // the schemes matter
		if slices.ContainsFunc(fetched.seen, func(s string) bool { return s != "https" }) {
			t.Errorf("asked over %q", fetched.seen)
		}
	})
}

// schemes notes how it was asked and has no answer.
type schemes struct{ seen []string }

func (s *schemes) RoundTrip(r *http.Request) (*http.Response, error) {
	s.seen = append(s.seen, r.URL.Scheme)
	return nil, errTooSoon
}

package authn

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// platform is what stands in testdata/platforms/<name>: an issuer entry as
// docs/issuers.md shows it, claims as the platform documents them, the
// identities they give, and near misses that must give none.
type platform struct {
	dir    string
	issuer Issuer
	// Documentation is where the platform says what its tokens hold.
	Documentation []string          `json:"documentation"`
	Tokens        map[string]claims `json:"tokens"`
	// Refused are changes to each of the tokens; null takes a claim away.
	Refused map[string]claims `json:"refused"`
	want    map[string]identity
}

// identity is a user as RBAC and audit see it.
type identity struct {
	User   string              `json:"user"`
	Groups []string            `json:"groups"`
	Extra  map[string][]string `json:"extra"`
}

func identityOf(a v1alpha1.Agent) identity { return identity{a.User, a.Groups(), a.Extra()} }

// platformNames are those that the issue and docs/issuers.md promise.
var platformNames = []string{"auth0", "entra", "github", "gitlab", "google", "keycloak", "kubernetes", "okta", "spiffe"}

func readPlatform(t testing.TB, name string) platform {
	t.Helper()
	p := platform{dir: filepath.Join("testdata", "platforms", name)}
	if err := yaml.UnmarshalStrict(readFile(t, filepath.Join(p.dir, "issuer.yaml")), &p.issuer); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	d := json.NewDecoder(bytes.NewReader(readFile(t, filepath.Join(p.dir, "claims.json"))))
	d.DisallowUnknownFields()
	d.UseNumber()
	if err := d.Decode(&p); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if os.Getenv("UPDATE_GOLDEN") == "" {
		if err := yaml.UnmarshalStrict(readFile(t, filepath.Join(p.dir, "want.yaml")), &p.want); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return p
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// serve stands in for the platform's issuer: the entry is pointed at a server
// that answers discovery and keys as set gives them.
func (p platform) serve(t testing.TB, set jose.JSONWebKeySet) Issuer {
	t.Helper()
	is := p.issuer
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": is.URL, "jwks_uri": "https://" + r.Host + "/keys"})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(set) })
	server := httptest.NewUnstartedServer(mux)
	is.URL = "https://" + server.Listener.Addr().String()
	if strings.HasSuffix(p.issuer.URL, "/") {
		is.URL += "/"
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	is.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(is.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return is
}

// live are claims as they would be now, of the issuer under test: the times
// moved, what lies between them kept.
func (p platform) live(t testing.TB, documented claims, url string, changes claims) claims {
	t.Helper()
	c := maps.Clone(documented)
	if c["iss"] != p.issuer.URL {
		t.Fatalf("%s: iss %v isn't the issuer's URL", p.dir, c["iss"])
	}
	c["iss"] = url
	iat, err := c["iat"].(json.Number).Int64()
	if err != nil {
		t.Fatal(err)
	}
	moved := time.Now().Unix() - iat
	for _, name := range []string{"iat", "nbf", "exp"} {
		if v, ok := c[name].(json.Number); ok {
			n, err := v.Int64()
			if err != nil {
				t.Fatal(err)
			}
			c[name] = n + moved
		}
	}
	return claimsOf(c).but(changes)
}

// platformKeys is a platform's key set as it publishes it: Entra ID names no
// algorithm and adds the certificate.
func platformKeys(t testing.TB, name string, k key) jose.JSONWebKeySet {
	t.Helper()
	j := jose.JSONWebKey{Key: k.public, KeyID: k.id, Algorithm: string(k.alg), Use: "sig"}
	if name == "entra" {
		j.Algorithm = ""
		j.Certificates = []*x509.Certificate{selfSigned(t, k.private.(*rsa.PrivateKey))}
	}
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{j}}
}

func selfSigned(t testing.TB, k *rsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "accounts.accesscontrol.windows.net"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// signingKey is a key of the kind that the platform signs with: SPIRE's default
// is EC P-256, the others' RS256.
func signingKey(t testing.TB, name string) key {
	if name == "spiffe" {
		return ecKey(t, "k1")
	}
	return rsaKey("k1", 0)
}

func TestPlatformsTokensGiveTheDocumentedIdentity(t *testing.T) {
	t.Parallel()
	for _, name := range platformNames {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := readPlatform(t, name)
			k := signingKey(t, name)
			is := p.serve(t, platformKeys(t, name, k))
			a := connected(t, &logs{}, is)
			got := map[string]identity{}
			for title, c := range p.Tokens {
				live := p.live(t, c, is.URL, nil)
				agent, reason := authenticate(t, a, k.token(t, live))
				if reason != "" {
					t.Errorf("%s: refused: %s", title, reason)
				}
				got[title] = documented(identityOf(agent), live, c)
			}
			if os.Getenv("UPDATE_GOLDEN") != "" {
				writeWant(t, p, got)
				return
			}
			if !reflect.DeepEqual(got, p.want) {
				b, _ := yaml.Marshal(got) // only to show
				t.Errorf("identities differ from want.yaml, got\n%s", b)
			}
		})
	}
}

// documented is id with the times of the documented claims again, for a run
// that is named by one.
func documented(id identity, live, c claims) identity {
	b, _ := json.Marshal(id) // strings alone always do
	now, _ := json.Marshal(live["iat"])
	then, _ := json.Marshal(c["iat"])
	var out identity
	_ = json.Unmarshal(bytes.ReplaceAll(b, append([]byte("/"), now...), append([]byte("/"), then...)), &out)
	return out
}

func writeWant(t testing.TB, p platform, got map[string]identity) {
	t.Helper()
	b, err := yaml.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.dir, "want.yaml"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestI1_PlatformsRefuseTheirOtherTenants: most of these issuers sign for
// anybody in the world, so the entry must say who is meant.
func TestI1_PlatformsRefuseTheirOtherTenants(t *testing.T) {
	t.Parallel()
	for _, name := range platformNames {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := readPlatform(t, name)
			if len(p.Refused) < 4 {
				t.Fatalf("only %d near misses", len(p.Refused))
			}
			k := signingKey(t, name)
			is := p.serve(t, platformKeys(t, name, k))
			a := connected(t, &logs{}, is)
			for miss, changes := range p.Refused {
				for title, c := range p.Tokens {
					if agent, reason := authenticate(t, a, k.token(t, p.live(t, c, is.URL, changes))); reason == "" {
						t.Errorf("%s, with %s, is %+v", title, miss, identityOf(agent))
					}
				}
			}
		})
	}
}

// TestI1_PlatformsNeedEachOfTheirPins takes away what says who is meant, one by
// one: each time a near miss must get in, or the pin did nothing.
func TestI1_PlatformsNeedEachOfTheirPins(t *testing.T) {
	t.Parallel()
	for _, name := range platformNames {
		p := readPlatform(t, name)
		without := map[string]func(*Issuer){"match": func(is *Issuer) {
			is.Mappings = slices.Clone(is.Mappings)
			for i := range is.Mappings {
				is.Mappings[i].Match = ""
			}
		}}
		if !slices.ContainsFunc(p.issuer.Mappings, func(m Mapping) bool { return m.Match != "" }) {
			delete(without, "match")
		}
		for claim := range p.issuer.RequiredClaims {
			without["required claim "+claim] = func(is *Issuer) {
				is.RequiredClaims = maps.Clone(is.RequiredClaims)
				delete(is.RequiredClaims, claim)
			}
		}
		if len(without) == 0 {
			t.Errorf("%s: nothing says who is meant", name)
		}
		for pin, take := range without {
			t.Run(name+" without "+pin, func(t *testing.T) {
				t.Parallel()
				k := signingKey(t, name)
				is := p.serve(t, platformKeys(t, name, k))
				take(&is)
				a := connected(t, &logs{}, is)
				for _, changes := range p.Refused {
					for _, c := range p.Tokens {
						if _, reason := authenticate(t, a, k.token(t, p.live(t, c, is.URL, changes))); reason == "" {
							return
						}
					}
				}
				t.Error("every near miss is still refused")
			})
		}
	}
}

// TestPlatformsExport: every documented entry can be exported.
func TestPlatformsExport(t *testing.T) {
	t.Parallel()
	for _, name := range platformNames {
		if _, notes, err := Export(&Config{Issuers: []Issuer{readPlatform(t, name).issuer}}); err != nil || len(notes) > 0 {
			t.Errorf("%s: %v, notes %q", name, err, notes)
		}
	}
}

// TestDocumentedIssuersAreTheTestedOnes holds docs/issuers.md to testdata.
func TestDocumentedIssuersAreTheTestedOnes(t *testing.T) {
	t.Parallel()
	doc := string(readFile(t, filepath.Join("..", "docs", "issuers.md")))
	dirs, err := os.ReadDir(filepath.Join("testdata", "platforms"))
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, d := range dirs {
		have = append(have, d.Name())
		entry := string(readFile(t, filepath.Join("testdata", "platforms", d.Name(), "issuer.yaml")))
		if !strings.Contains(doc, "```yaml\n"+entry+"```\n") {
			t.Errorf("docs/issuers.md doesn't show %s/issuer.yaml as it is", d.Name())
		}
		p := readPlatform(t, d.Name())
		for title, id := range p.want {
			if !strings.Contains(doc, "`"+id.User+"`") {
				t.Errorf("docs/issuers.md doesn't show the user of %s, %s: %s", d.Name(), title, id.User)
			}
		}
		if len(p.Documentation) == 0 {
			t.Errorf("%s: claims.json doesn't say where its claims are documented", d.Name())
		}
	}
	if !slices.Equal(have, platformNames) {
		t.Errorf("testdata/platforms has %v, want %v", have, platformNames)
	}
}

package authn

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tipstaff-dev/tipstaff/internal/access"
)

// explain is Explain; whatever comes out must not hold the token.
func explain(t *testing.T, cfg Config, token string, offline bool) Report {
	t.Helper()
	r, err := Explain(t.Context(), cfg, testLimits, token, ExplainOptions{Offline: offline})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 8 && strings.Contains(string(b), part) {
			t.Errorf("a part of the token is shown: %s", b)
		}
	}
	return r
}

func TestExplainSaysWhatAuthenticateDoes(t *testing.T) {
	t.Parallel()
	k, other := rsaKey("k1", 0), rsaKey("k2", 1)
	p := newProvider(t, k)
	is := p.issuer()
	is.RequiredClaims = map[string]string{"tenant": "ours"}
	is.ClaimValidationRules = []ValidationRule{{Expression: `claims.?event.orValue("") != "pull_request"`}}
	is.Mappings = append([]Mapping{{Name: "bots", Match: `claims.sub == "bot"`, Run: "claims.run_id"}}, is.Mappings...)
	cfg := Config{Issuers: []Issuer{is}, Profiles: []Profile{{Name: "default", Access: []ProfileAccess{{ClusterRoles: []string{"edit"}, NamespacesFrom: `[claims["env"]]`}}}}}
	good := claimsOf(claimsOf(p.good()).but(claims{"tenant": "ours", "env": "team-a", "act": claims{"sub": "alice"}}))
	a := withProfiles(t, &ensured{}, &logs{}, testLimits, cfg.Profiles, is)

	for _, row := range []struct {
		name, token string
		failed      string // the check
		detail      string // part of what is said of it
	}{
		{"a good token", k.token(t, good), "", ""},
		{"expired", k.token(t, good.but(claims{"exp": time.Now().Add(-time.Hour).Unix()})), "times", "(1h0m"},
		{"another audience", k.token(t, good.but(claims{"aud": []string{"x"}})), "audience", `the token is for ["x"], wanted is one of ["tipstaff" "other-cluster"]`},
		{"another key", other.token(t, good), "signature", `the token names key "k2", the issuer has "k1"`},
		{"another algorithm", raw(`{"alg":"HS256"}`, `{"iss":"`+p.URL+`"}`, []byte("xxxxxxxxxxxx")), "header", `"HS256", the config allows RS256, ES256`},
		{"another tenant", k.token(t, good.but(claims{"tenant": "theirs"})), "required claims", `tenant is "theirs", wanted is "ours"`},
		{"a rule", k.token(t, good.but(claims{"event": "pull_request"})), "claimValidationRules[0]", "does not hold"},
		{"no run", k.token(t, good.but(claims{"run_id": nil})), "names", "mappings[1]: run cannot be evaluated"},
		{"beyond the limits", k.token(t, good.but(claims{"env": "kube-system"})), "profile", "access.namespaces"},
		{"another issuer", k.token(t, good.but(claims{"iss": "https://elsewhere.example"})), "token", p.URL},
		{"no token", "hello", "token", "RFC 7515"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := explain(t, cfg, row.token, false)
			_, reason := authenticate(t, a, row.token)
			if reason == "not ours" {
				reason = ErrNotOurs.Error()
			}
			if r.Refused != reason || r.Accepted != (reason == "") {
				t.Errorf("explained as %q, authenticated as %q", r.Refused, reason)
			}
			last := r.Checks[len(r.Checks)-1]
			if row.failed == "" {
				if !last.OK || !r.SignatureVerified {
					t.Errorf("got %+v", r)
				}
				return
			}
			if last.OK || last.Name != row.failed || !strings.Contains(last.Detail, row.detail) {
				t.Errorf("the last check is %+v, want %s with %q", last, row.failed, row.detail)
			}
			if i := slices.IndexFunc(r.Checks, func(c Check) bool { return !c.OK }); i != len(r.Checks)-1 {
				t.Errorf("checks go on after one failed: %+v", r.Checks)
			}
		})
	}

	r := explain(t, cfg, k.token(t, good), false)
	var used []string
	for _, u := range r.Claims {
		used = append(used, u.Claim+"="+string(u.Value))
	}
	want := []string{"claims.event=", `claims.sub="deployer"`, `claims.run_id="run-7"`, "claims.model=", `claims.act.sub="alice"`, "claims.task=", "claims.profile=", `claims.env="team-a"`}
	if !slices.Equal(used, want) {
		t.Errorf("used %q, want %q", used, want)
	}
	if r.Mapping != "mappings[1]" || r.Issuer != "ci" || r.User.Username != "agent:ci:deployer" || len(r.Access) != 1 || r.Access[0].Namespaces[0] != "team-a" || len(r.NotChecked) != 1 {
		t.Errorf("got %+v", r)
	}
}

func TestExplainOfflineFetchesNothing(t *testing.T) {
	t.Parallel()
	k, other := rsaKey("k1", 0), rsaKey("k1", 1)
	p := newProvider(t, k)
	is := p.issuer()
	r := explain(t, Config{Issuers: []Issuer{is}}, other.token(t, p.good()), true)
	if r.Accepted || r.SignatureVerified || r.Refused != "" || r.User == nil || !slices.ContainsFunc(r.NotChecked, func(s string) bool { return strings.Contains(s, "signature") }) {
		t.Errorf("without keys: %+v", r)
	}
	is.CAFile, is.KeySetFile = "", filepath.Join(t.TempDir(), "keys.json")
	writeKeySet(t, is.KeySetFile, k)
	if r := explain(t, Config{Issuers: []Issuer{is}}, other.token(t, p.good()), true); r.Accepted || r.SignatureVerified {
		t.Errorf("the file's key isn't asked: %+v", r)
	}
	if r := explain(t, Config{Issuers: []Issuer{is}}, k.token(t, p.good()), true); !r.Accepted || !r.SignatureVerified {
		t.Errorf("the file's key does not verify: %+v", r)
	}
	if n := p.fetches.Load(); n != 0 {
		t.Errorf("%d fetches", n)
	}
	p.down.Store(true)
	if r := explain(t, Config{Issuers: []Issuer{p.issuer()}}, k.token(t, p.good()), false); r.Accepted || r.Checks[len(r.Checks)-1].Name != "keys" {
		t.Errorf("a dead issuer: %+v", r)
	}
	if _, err := Explain(t.Context(), Config{Issuers: []Issuer{{}}}, access.Limits{}, "x", ExplainOptions{}); err == nil {
		t.Error("a config that doesn't hold is accepted")
	}
}

package authn

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/access"
)

func TestAuthenticateGivesTheMappedAgent(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	a := connected(t, &logs{}, p.issuer())
	got, reason := authenticate(t, a, k.token(t, claimsOf(p.good()).but(claims{
		"model": "claude", "act": claims{"sub": "alice@example.com"}, "task": "fix the build", "profile": "deploy",
	})))
	want := v1alpha1.Agent{
		User: "agent:ci:deployer", Issuer: "ci", Run: "run-7", Model: "claude", Owner: "alice@example.com",
		Task: "fix the build", Profile: "deploy", CredentialID: "JTI=t-1",
	}
	if reason != "" || got != want {
		t.Errorf("got %+v, %q; want %+v", got, reason, want)
	}
	wantGroups := []string{"tipstaff:agents", "tipstaff:profile:deploy", "tipstaff:run:ci:run-7"}
	if !slices.Equal(got.Groups(), wantGroups) {
		t.Errorf("groups %v, want %v", got.Groups(), wantGroups)
	}
}

// TestI1_NoTokenYieldsMoreThanItsMappingGrants goes through what a token may
// try; each row changes one thing of a token that holds.
func TestI1_NoTokenYieldsMoreThanItsMappingGrants(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	is := p.issuer()
	is.Mappings[0].Subject = "claims.sub"
	out := &logs{}
	a := connected(t, out, is)
	now := time.Now()
	for _, row := range []struct {
		name    string
		changes claims
		want    string // the reason, after `issuer "ci": `
	}{
		{"a good token passes", claims{}, ""},
		{"one audience as a string passes", claims{"aud": "tipstaff"}, ""},
		{"many audiences pass if one is ours", claims{"aud": manyAudiences(200, "tipstaff")}, ""},
		{"groups that a token claims are nothing", claims{"groups": []string{"system:masters"}}, ""},
		{"a token without a jti has no credential id", claims{"jti": nil}, ""},
		{"an expiry that has passed within the skew still holds", claims{"exp": now.Add(-10 * time.Second).Unix()}, ""},

		{"a token for another audience is refused", claims{"aud": "sts.amazonaws.com"}, "token is for another audience"},
		{"a token without an audience is refused", claims{"aud": nil}, "claim aud is missing or of another type"},
		{"an expired token is refused", claims{"exp": now.Add(-time.Hour).Unix()}, "token is expired"},
		{"a token without an expiry is refused", claims{"exp": nil}, "claim exp is missing"},
		{"an expiry past the year 9999 is refused", claims{"exp": 1e18}, "claim exp is not a time"},
		{"an infinite-looking expiry is refused", claims{"exp": math.MaxFloat64}, "claim exp is not a time"},
		{"a negative expiry is refused", claims{"exp": -1}, "claim exp is not a time"},
		{"an expiry as text is refused", claims{"exp": "never"}, malformed},
		{"an old token is refused however late it expires", claims{"iat": now.Add(-25 * time.Hour).Unix(), "exp": now.Add(1000 * time.Hour).Unix()},
			"token is older than the issuer's maxTokenAge"},
		{"a token without an issue time is refused", claims{"iat": nil}, "claim iat is missing"},
		{"a token from the future is refused", claims{"iat": now.Add(time.Hour).Unix()}, "token was issued in the future"},
		{"a token that isn't valid yet is refused", claims{"nbf": now.Add(time.Hour).Unix()}, "token is not valid yet"},
		{"a token without a run is refused", claims{"run_id": nil}, cannot("run")},
		{"an empty run is refused", claims{"run_id": ""}, "mappings[0]: run is empty: an agent without a run is refused"},
		{"a run that is a number is refused", claims{"run_id": 7}, "mappings[0]: run is not a string"},
		{"a run with a space is refused", claims{"run_id": "a b"}, "mappings[0]: run holds characters other than A-Za-z0-9._:/@+-"},
		{"a run named system: is refused", claims{"run_id": "system:masters"}, system("run")},
		{"a long run is refused", claims{"run_id": strings.Repeat("r", 129)}, "mappings[0]: run is longer than 128 bytes"},
		{"a token without a subject is refused", claims{"sub": nil}, cannot("subject")},
		{"a system: subject is refused", claims{"sub": "system:admin"}, system("subject")},
		{"a SYSTEM: subject is refused", claims{"sub": "SyStEm:admin"}, system("subject")},
		{"a subject with a newline is refused", claims{"sub": "a\nb"}, ascii("subject")},
		{"a subject with a NUL is refused", claims{"sub": "a\x00"}, ascii("subject")},
		{"a subject with a look-alike letter is refused", claims{"sub": "аdmin"}, ascii("subject")},
		{"a subject with a space is refused", claims{"sub": "a b"}, "mappings[0]: subject holds a space"},
		{"a huge subject is refused", claims{"sub": strings.Repeat("s", 201)}, "mappings[0]: subject is longer than 200 bytes"},
		{"a system: owner is refused", claims{"act": claims{"sub": "system:masters"}}, system("owner")},
		{"an owner padded with spaces is refused", claims{"act": claims{"sub": " alice"}}, "mappings[0]: owner starts or ends with a space"},
		{"a huge model is refused", claims{"model": strings.Repeat("m", 257)}, "mappings[0]: model is longer than 256 bytes"},
		{"a profile that would be another group is refused", claims{"profile": "x:y"}, "mappings[0]: profile holds characters other than a-z0-9-"},
		{"an empty profile is refused", claims{"profile": ""}, "mappings[0]: profile is empty"},
		{"a profile that is a list is refused", claims{"profile": []string{"default"}}, "mappings[0]: profile is not a string"},
		{"a huge jti is refused", claims{"jti": strings.Repeat("j", 257)}, "claim jti is longer than 256 bytes"},
		{"a jti that is no string is refused", claims{"jti": 5}, "claim jti is not a string"},
		{"claims that nest too deeply are refused", claims{"x": nested(maxClaimsDepth)}, notDistinct},
		{"claims may nest", claims{"x": nested(maxClaimsDepth - 1)}, ""},
		{"a negative issue time is refused", claims{"iat": -1}, "claim iat is not a time"},
		{"a negative not-before is refused", claims{"nbf": -1}, "claim nbf is not a time"},
		{"an audience that is a list of lists is refused", claims{"aud": [][]string{{"tipstaff"}}}, malformed},
		{"a run with a NUL is refused", claims{"run_id": "r\x00"}, ascii("run")},
		{"a right-to-left run is refused", claims{"run_id": "r\u202e"}, ascii("run")},
		{"a revoked run is refused", claims{"run_id": "run-revoked"}, `run "run-revoked" is revoked: compromised`},
	} {
		t.Run(row.name, func(t *testing.T) {
			want := row.want
			if want != "" {
				want = `issuer "ci": ` + want
			}
			agent, reason := authenticate(t, a, k.token(t, claimsOf(p.good()).but(row.changes)))
			if reason != want {
				t.Fatalf("got %q, want %q", reason, want)
			}
			if want == "" {
				checkScope(t, agent)
			}
		})
	}
}

const notDistinct = "claims are not one JSON object with distinct names"

func nested(depth int) any {
	var v any = "x"
	for range depth {
		v = []any{v}
	}
	return v
}

const malformed = "signature does not verify with the issuer's keys, or claims are malformed"

func cannot(name string) string {
	return "mappings[0]: " + name + " " + errCannot.Error()
}

func system(name string) string {
	return "mappings[0]: " + name + ` starts with "system:", which is kept for Kubernetes`
}

func ascii(name string) string {
	return "mappings[0]: " + name + " holds characters other than printable ASCII"
}

func manyAudiences(n int, last string) []string {
	var auds []string
	for i := range n {
		auds = append(auds, fmt.Sprint("service-", i))
	}
	return append(auds, last)
}

// checkScope is I1 as a property of whatever agent came out.
func checkScope(t testing.TB, a v1alpha1.Agent) {
	t.Helper()
	if !strings.HasPrefix(a.User, "agent:"+a.Issuer+":") || a.Run == "" {
		t.Errorf("identity out of scope: %+v", a)
	}
	for _, g := range a.Groups() {
		if !strings.HasPrefix(g, v1alpha1.GroupPrefix) || g == v1alpha1.GroupProxied {
			t.Errorf("group out of scope: %q", g)
		}
	}
	for k, vs := range a.Extra() {
		for _, v := range vs {
			if strings.HasPrefix(strings.ToLower(v), "system:") || strings.ContainsFunc(v, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
				t.Errorf("extra %s out of scope: %q", k, v)
			}
		}
	}
}

// TestI1_SignaturesThatAreNoneYieldNobody goes through the known tricks with a
// token's header and signature.
func TestI1_SignaturesThatAreNoneYieldNobody(t *testing.T) {
	t.Parallel()
	k, other, ec := rsaKey("k1", 0), rsaKey("k1", 1), ecKey(t, "e1")
	p := newProvider(t, k, ec)
	is := p.issuer()
	is.Algorithms = []string{"RS256"}
	out := &logs{}
	a := connected(t, out, is)
	good := k.token(t, p.good())
	parts := strings.Split(good, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	// Algorithm confusion: the public key's bytes as an HMAC secret.
	der, err := x509.MarshalPKIXPublicKey(k.public)
	if err != nil {
		t.Fatal(err)
	}
	hs := func(secret []byte) string {
		head := strings.TrimSuffix(raw(`{"alg":"HS256","kid":"k1"}`, string(payload), nil), ".")
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(head))
		return head + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	flipped := slices.Clone(signature)
	flipped[0] ^= 1
	const notAllowed, noVerify = `issuer "ci": signing algorithm is not allowed`, `issuer "ci": ` + malformed
	dup := strings.TrimSuffix(string(payload), "}") + `,"sub":"admin"}`
	for name, row := range map[string]struct{ token, want string }{
		"alg none is refused":                                   {raw(`{"alg":"none"}`, string(payload), []byte("x")), notAllowed},
		"alg none without a signature isn't even looked at":     {raw(`{"alg":"none"}`, string(payload), nil), "not ours"},
		"alg None is refused":                                   {raw(`{"alg":"None"}`, string(payload), []byte("x")), notAllowed},
		"HMAC with the public key in DER is refused":            {hs(der), notAllowed},
		"HMAC with the public key in PEM is refused":            {hs(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), notAllowed},
		"an algorithm of the issuer that isn't ours is refused": {ec.token(t, p.good()), notAllowed},
		"a header without alg is refused":                       {raw(`{"kid":"k1"}`, string(payload), signature), notAllowed},
		"two algs in a header are refused":                      {raw(`{"alg":"none","alg":"RS256","kid":"k1"}`, string(payload), signature), `issuer "ci": header is not one JSON object with distinct names`},
		"another key with the same key id is refused":           {other.token(t, p.good()), noVerify},
		"a key in the header is ignored":                        {other.sign(t, map[jose.HeaderKey]any{"jwk": jose.JSONWebKey{Key: other.public, KeyID: "k1"}}, payload), noVerify},
		"a key URL in the header is ignored":                    {other.sign(t, map[jose.HeaderKey]any{"jku": "https://127.0.0.1:1/keys", "x5u": "https://127.0.0.1:1/x"}, payload), noVerify},
		"a key id that is a path is only unknown":               {key{"../../keys", k.alg, other.private, nil}.token(t, p.good()), noVerify},
		"a key id that is huge is only unknown":                 {key{strings.Repeat("k", 8000), k.alg, other.private, nil}.token(t, p.good()), noVerify},
		"a line break in the token is no token":                 {good[:20] + "\n" + good[20:], "not ours"},
		"padding is no token":                                   {good + "==", "not ours"},
		"claims twice, deep inside, are refused":                {k.sign(t, nil, []byte(strings.TrimSuffix(string(payload), "}")+`,"act":{"sub":"a","sub":"b"}}`)), `issuer "ci": claims are not one JSON object with distinct names`},
		"claims that are no Unicode are refused":                {k.sign(t, nil, []byte(strings.TrimSuffix(string(payload), "}")+`,"act":{"sub":"`+"\xff"+`"}}`)), `issuer "ci": claims are not one JSON object with distinct names`},
		"a second iss is refused":                               {k.sign(t, nil, []byte(strings.TrimSuffix(string(payload), "}")+`,"iss":"https://elsewhere.example"}`)), noVerify},
		"crit that is null is refused":                          {k.sign(t, map[jose.HeaderKey]any{"crit": nil}, payload), `issuer "ci": header carries an extension`},
		"a critical extension is refused":                       {k.sign(t, map[jose.HeaderKey]any{"crit": []string{"exp"}, "exp": 1}, payload), `issuer "ci": header carries an extension`},
		"an unencoded payload is refused":                       {k.sign(t, map[jose.HeaderKey]any{"b64": true, "crit": []string{"b64"}}, payload), `issuer "ci": header carries an extension`},
		"a changed signature is refused":                        {parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(flipped), noVerify},
		"a changed payload is refused":                          {raw(`{"alg":"RS256","kid":"k1"}`, strings.Replace(string(payload), "deployer", "admin", 1), signature), noVerify},
		"a claim given twice is refused even when signed":       {k.sign(t, nil, []byte(dup)), `issuer "ci": claims are not one JSON object with distinct names`},
		"another issuer's token isn't ours":                     {k.token(t, claimsOf(p.good()).but(claims{"iss": "https://elsewhere.example"})), "not ours"},
		"an issuer with a slash more isn't ours":                {k.token(t, claimsOf(p.good()).but(claims{"iss": p.URL + "/"})), "not ours"},
		"a token without an issuer isn't ours":                  {k.token(t, claimsOf(p.good()).but(claims{"iss": nil})), "not ours"},
		"an issuer in other letters isn't read":                 {k.sign(t, nil, []byte(`{"ISS":"`+p.URL+`"}`)), "not ours"},
		"a bootstrap token isn't ours":                          {"abcdef.0123456789abcdef", "not ours"},
		"an empty token isn't ours":                             {"", "not ours"},
		"an oversize token isn't looked at":                     {k.token(t, claimsOf(p.good()).but(claims{"pad": strings.Repeat("x", maxTokenBytes)})), "not ours"},
		"a JSON-serialised token isn't ours":                    {`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, "not ours"},
		"a good token passes, so the rows above say something":  {good, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if _, reason := authenticate(t, a, row.token); reason != row.want {
				t.Errorf("got %q, want %q", reason, row.want)
			}
		})
	}
}

// TestI1_OneIssuersTokenIsNotAnothers has two issuers, each with its own key.
func TestI1_OneIssuersTokenIsNotAnothers(t *testing.T) {
	t.Parallel()
	k1, k2 := rsaKey("k", 0), rsaKey("k", 1)
	p1, p2 := newProvider(t, k1), newProvider(t, k2)
	is2 := p2.issuer()
	is2.Name = "two"
	a := connected(t, &logs{}, p1.issuer(), is2)
	if _, reason := authenticate(t, a, k1.token(t, p2.good())); reason != `issuer "two": `+malformed {
		t.Errorf("issuer one's key signed for issuer two: %q", reason)
	}
	for name, token := range map[string]string{"agent:ci:deployer": k1.token(t, p1.good()), "agent:two:deployer": k2.token(t, p2.good())} {
		if agent, reason := authenticate(t, a, token); agent.User != name {
			t.Errorf("got %q %q, want %q", agent.User, reason, name)
		}
	}
}

func TestTheFirstMatchingMappingDecides(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	is := p.issuer()
	is.Mappings = []Mapping{
		{Match: `claims.sub.startsWith("bot-")`, Subject: `"bots"`, Run: `claims.run_id`},
		{Match: `claims.?team.orValue("") == "ops"`, Run: `"ops-" + claims.run_id`, Profile: `"ops"`},
		{Match: `claims.level > 3`, Run: `string(claims.level)`},
	}
	a := connected(t, &logs{}, is)
	for _, row := range []struct {
		name              string
		changes           claims
		user, run, reason string
	}{
		{"the first", claims{"sub": "bot-1", "team": "ops"}, "agent:ci:bots", "run-7", ""},
		{"the second", claims{"team": "ops"}, "agent:ci:deployer", "ops-run-7", ""},
		{"a number is a number", claims{"level": 4}, "agent:ci:deployer", "4", ""},
		{"none", claims{"level": 1}, "", "", `issuer "ci": no mapping matches the token`},
		{"a match that fails refuses, it doesn't fall through", claims{}, "", "", `issuer "ci": mappings[2]: ` + "match " + errCannot.Error()},
	} {
		t.Run(row.name, func(t *testing.T) {
			agent, reason := authenticate(t, a, k.token(t, claimsOf(p.good()).but(row.changes)))
			if agent.User != row.user || agent.Run != row.run || reason != row.reason {
				t.Errorf("got %+v %q", agent, reason)
			}
		})
	}
}

func TestAnExpressionThatCostsTooMuchRefuses(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	is := p.issuer()
	is.Mappings[0].Match = `dyn(claims.l).all(a, dyn(claims.l).all(b, dyn(claims.l).all(c, dyn(claims.l).all(d, a + b + c + d >= 0))))`
	a := connected(t, &logs{}, is)
	_, reason := authenticate(t, a, k.token(t, claimsOf(p.good()).but(claims{"l": make([]int, 1000)})))
	if want := `issuer "ci": mappings[0]: ` + "match " + errCannot.Error(); reason != want {
		t.Errorf("got %q, want %q", reason, want)
	}
}

// TestI9_UnknownRevocationsRefuse holds that "not known" is not "not revoked".
func TestI9_UnknownRevocationsRefuse(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	a := newAuthenticator(t, revokedRuns(nil), &logs{}, p.issuer())
	if err := a.issuers[p.URL].connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, reason := authenticate(t, a, k.token(t, p.good())); reason != `issuer "ci": it could not be checked whether the run is revoked` {
		t.Errorf("got %q", reason)
	}
}

func TestAnIssuerThatIsDownAtStartIsTriedAgain(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p, up := newProvider(t, k), newProvider(t, k)
	p.down.Store(true)
	other := up.issuer()
	other.Name = "up"
	a := newAuthenticator(t, revokedRuns{}, &logs{}, p.issuer(), other)
	a.issuers[p.URL].firstRetry = time.Millisecond
	done := make(chan error, 1)
	go func() { done <- a.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-a.Tried()
	if _, reason := authenticate(t, a, k.token(t, p.good())); reason != `issuer "ci": the issuer has not answered yet, so its tokens can't be verified` {
		t.Errorf("while down: %q", reason)
	}
	if _, reason := authenticate(t, a, k.token(t, up.good())); reason != "" {
		t.Errorf("the other issuer: %q", reason)
	}
	p.down.Store(false)
	for {
		_, reason := authenticate(t, a, k.token(t, p.good()))
		if reason == "" {
			break
		}
		select {
		case <-t.Context().Done():
			t.Fatal("never came up: " + reason)
		case <-time.After(5 * time.Millisecond):
		}
	}
	// Once known, keys verify while the issuer is down.
	p.down.Store(true)
	if _, reason := authenticate(t, a, k.token(t, p.good())); reason != "" {
		t.Errorf("down again: %q", reason)
	}
}

func TestRotatedKeysAreKnownAfterTheInterval(t *testing.T) {
	t.Parallel()
	k1, k2 := rsaKey("k1", 0), rsaKey("k2", 1)
	p := newProvider(t, k1)
	a := newAuthenticator(t, revokedRuns{}, &logs{}, p.issuer())
	var ahead atomic.Int64
	is := a.issuers[p.URL]
	is.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	if err := is.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.rotate(k1, k2)
	const n = 200
	for i := range n {
		made := key{fmt.Sprint("made-up-", i), k2.alg, k2.private, nil}
		if _, reason := authenticate(t, a, made.token(t, p.good())); reason == "" {
			t.Fatal("an unknown key verified")
		}
	}
	if got := p.fetches.Load(); got != 1 {
		t.Errorf("%d tokens with unknown key ids cost %d fetches, want the first one only", n, got)
	}
	ahead.Store(int64(refetchInterval))
	if _, reason := authenticate(t, a, k2.token(t, p.good())); reason != "" {
		t.Errorf("the rotated key after the interval: %q", reason)
	}
	if got := p.fetches.Load(); got != 2 {
		t.Errorf("%d fetches, want 2", got)
	}
	// A failing issuer costs no key.
	ahead.Store(int64(2 * refetchInterval))
	p.down.Store(true)
	if _, reason := authenticate(t, a, (key{"x", k2.alg, k2.private, nil}).token(t, p.good())); reason == "" {
		t.Error("an unknown key verified")
	}
	if _, reason := authenticate(t, a, k2.token(t, p.good())); reason != "" {
		t.Errorf("a known key while the issuer is down: %q", reason)
	}
}

func TestAnIssuerThatAnswersBadlyStaysUnknown(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		discover func(url string) any
		want     string
	}{
		{"a huge document is cut off", func(string) any { return strings.Repeat("x", maxDocumentBytes) }, "larger than"},
		{"keys over http are not fetched", func(u string) any {
			return map[string]string{"issuer": u, "jwks_uri": strings.Replace(u, "https", "http", 1) + "/keys"}
		}, "only GET over https"},
		{"a document of another issuer is refused", func(string) any { return map[string]string{"issuer": "https://elsewhere.example"} }, "issuer"},
		{"a document without keys is refused", func(u string) any { return map[string]string{"issuer": u} }, "names no jwks_uri"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t)
			p.discover = row.discover
			a := newAuthenticator(t, revokedRuns{}, &logs{}, p.issuer())
			err := a.issuers[p.URL].connect(t.Context())
			if err == nil || !strings.Contains(err.Error(), row.want) || len(err.Error()) > 1000 {
				t.Errorf("got %v, want %q in it", err, row.want)
			}
		})
	}
}

func TestAnIssuerUnderAnotherCAIsNotTrusted(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	is := p.issuer()
	is.CAFile = ""
	a := newAuthenticator(t, revokedRuns{}, &logs{}, is)
	if err := a.issuers[p.URL].connect(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v", err)
	}
}

func TestMaxTokenAgeIsTheIssuersOwn(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	is := p.issuer()
	is.MaxTokenAge = metav1.Duration{Duration: 10 * time.Second}
	is.ClockSkew = metav1.Duration{Duration: time.Second}
	a := connected(t, &logs{}, is)
	if _, reason := authenticate(t, a, k.token(t, p.good())); reason != `issuer "ci": token is older than the issuer's maxTokenAge` {
		t.Errorf("got %q", reason)
	}
}

func FuzzToken(f *testing.F) {
	k := rsaKey("k1", 0)
	p := newProvider(f, k)
	a := connected(f, &logs{}, p.issuer())
	good := k.token(f, p.good())
	f.Add(good)
	f.Add("")
	f.Add("..")
	f.Add("a.b.c")
	f.Add(raw(`{"alg":"none"}`, `{"iss":"`+p.URL+`"}`, []byte("x")))
	f.Add(raw(`{"alg":"RS256","kid":"k1"}`, `{"iss":"`+p.URL+`","exp":1e400}`, []byte("x")))
	f.Add(strings.Repeat("e30.", 5000))
	f.Fuzz(func(t *testing.T, token string) {
		agent, reason := authenticate(t, a, token)
		if reason == "" && token != good {
			t.Errorf("a token that nobody signed is %+v", agent)
		}
		if reason != "" && len(reason) > 300 {
			t.Errorf("a reason of %d bytes", len(reason))
		}
	})
}

// FuzzClaims signs whatever claims it is given, so they reach the mapping.
func FuzzClaims(f *testing.F) {
	k := ecKey(f, "k1")
	p := newProvider(f, k)
	is := p.issuer()
	is.Mappings[0].Run = `claims.?run_id.orValue("r")`
	a := connected(f, &logs{}, is)
	f.Add([]byte(`"run_id":"r-1"`))
	f.Add([]byte(`"run_id":"r","sub":"admin"`))
	f.Add([]byte(`"act":{"sub":"system:masters"}`))
	f.Add([]byte(`"profile":{"a":[[[[1e300]]]]}`))
	f.Add([]byte(`"model":"\u0000\ud800"`))
	f.Add([]byte(strings.Repeat(`"a":{`, 1000)))
	f.Fuzz(func(t *testing.T, more []byte) {
		now := time.Now()
		payload := fmt.Appendf(nil, `{"iss":%q,"aud":"tipstaff","sub":"s","iat":%d,"exp":%d,%s}`, p.URL, now.Unix(), now.Add(time.Minute).Unix(), more)
		agent, reason := authenticate(t, a, k.sign(t, nil, payload))
		if reason == "" {
			checkScope(t, agent)
			if agent.User != "agent:ci:s" {
				t.Errorf("a second sub won: %+v", agent)
			}
		}
	})
}

// TestKeysReadAtConnectOutliveTheIssuer is about the first token after a
// connect: go-oidc has the keys already and asks nobody, however long the issuer
// would take to answer.
func TestKeysReadAtConnectOutliveTheIssuer(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	out := &logs{}
	a := newAuthenticator(t, revokedRuns{}, out, p.issuer())
	var ahead atomic.Int64
	is := a.issuers[p.URL]
	is.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	if err := is.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	ahead.Store(int64(refetchInterval))
	p.down.Store(true)
	asked := p.fetches.Load()
	if _, reason := authenticate(t, a, k.token(t, p.good())); reason != "" {
		t.Errorf("got %q", reason)
	}
	if n := p.fetches.Load(); n != asked || out.String() != "" {
		t.Errorf("asked %d times, said: %s", n-asked, out)
	}
	// A token of a key that nobody knows has the issuer asked, and what was known stays.
	if _, reason := authenticate(t, a, rsaKey("k2", 1).token(t, p.good())); !strings.Contains(reason, "does not verify") {
		t.Errorf("an unknown key: %q", reason)
	}
	if !strings.Contains(out.String(), "its last answer stays in use") {
		t.Errorf("nobody is told: %s", out)
	}
	if _, reason := authenticate(t, a, k.token(t, p.good())); reason != "" {
		t.Errorf("afterwards: %q", reason)
	}
}

// An answer that leads nowhere is no answer: what was known stays.
func TestARedirectToNowhereForgetsNoKeys(t *testing.T) {
	t.Parallel()
	for _, code := range []int{http.StatusMultipleChoices, http.StatusFound, http.StatusNotModified} {
		k := rsaKey("k1", 0)
		p := newProvider(t, k)
		a := connected(t, &logs{}, p.issuer())
		p.answers.Store(int64(code))
		if err := a.issuers[p.URL].connect(t.Context()); err == nil {
			t.Errorf("%d: connected", code)
		}
		if _, reason := authenticate(t, a, k.token(t, p.good())); reason != "" {
			t.Errorf("%d: got %q", code, reason)
		}
	}
}

// Two agents of one run that may do different things share nothing.
func TestI1_WhatOneAgentOfARunMayDoIsNotTheOthers(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	is := p.issuer()
	limits := access.Limits{ClusterRoles: []string{"view", "edit"}}
	cfg := Config{Issuers: []Issuer{is}, Profiles: []Profile{
		{Name: "reader", Access: []ProfileAccess{{ClusterRoles: []string{"view"}, NamespacesFrom: "claims.namespaces"}}},
		{Name: "deployer", Access: []ProfileAccess{{ClusterRoles: []string{"edit"}, NamespacesFrom: "claims.namespaces"}}},
	}}
	a, err := New(cfg, limits, revokedRuns{}, unasked{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.issuers[p.URL].connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	keys := map[string]string{}
	for name, c := range map[string]claims{
		"reader":            {"profile": "reader", "namespaces": []string{"a"}},
		"deployer":          {"profile": "deployer", "namespaces": []string{"a"}},
		"another subject":   {"profile": "deployer", "namespaces": []string{"a"}, "sub": "other"},
		"another namespace": {"profile": "deployer", "namespaces": []string{"b"}},
		"nothing":           {"profile": "other"},
	} {
		agent, reason := authenticate(t, a, k.token(t, claimsOf(p.good()).but(c)))
		if reason != "" {
			t.Fatalf("%s: %s", name, reason)
		}
		if other, taken := keys[agent.AccessKey]; taken {
			t.Errorf("%s and %s have one access key", name, other)
		}
		keys[agent.AccessKey] = name
		if has := slices.Contains(agent.Groups(), v1alpha1.GroupAccessPrefix+agent.AccessKey); has != (name != "nothing") {
			t.Errorf("%s is in %v", name, agent.Groups())
		}
	}
}

// FuzzHeader puts whatever header before claims and a signature that would hold
// under another one.
func FuzzHeader(f *testing.F) {
	k := rsaKey("k1", 0)
	p := newProvider(f, k)
	a := connected(f, &logs{}, p.issuer())
	good := k.token(f, p.good())
	parts := strings.Split(good, ".")
	proper, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil {
		f.Fatal(err)
	}
	f.Add(proper)
	for _, h := range []string{
		`{"alg":"none"}`, `{"alg":"HS256","kid":"k1"}`, `{"alg":"RS256","kid":"../../k1"}`, `{"alg":["RS256"]}`, `{"alg":"RS256","alg":"none"}`,
		`{"alg":"RS256","crit":["b64"],"b64":false}`, `{"alg":"RS256","jku":"https://127.0.0.1:1/"}`, `null`, `[]`, ``, "\x00",
	} {
		f.Add([]byte(h))
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		h, err := checkHeader(base64.RawURLEncoding.EncodeToString(head)+".", defaultAlgorithms)
		if err == nil && !slices.Contains(defaultAlgorithms, h.Algorithm) {
			t.Errorf("let %q through", h.Algorithm)
		}
		token := base64.RawURLEncoding.EncodeToString(head) + "." + parts[1] + "." + parts[2]
		if agent, reason := authenticate(t, a, token); reason == "" && token != good {
			t.Errorf("a header that nobody signed is %+v", agent)
		}
	})
}

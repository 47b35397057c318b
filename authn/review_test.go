package authn

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

func post(t testing.TB, h http.Handler, body []byte) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/tokenreview", bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func reviewBody(t testing.TB, token string, audiences ...string) []byte {
	t.Helper()
	b, err := json.Marshal(authenticationv1.TokenReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenReview"},
		Spec:     authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func answerOf(t testing.TB, w *httptest.ResponseRecorder) authenticationv1.TokenReviewStatus {
	t.Helper()
	if w.Code != http.StatusOK {
		t.Fatalf("code %d: %s", w.Code, w.Body)
	}
	var review authenticationv1.TokenReview
	if err := json.Unmarshal(w.Body.Bytes(), &review); err != nil {
		t.Fatal(err)
	}
	if review.APIVersion != "authentication.k8s.io/v1" || review.Kind != "TokenReview" {
		t.Errorf("answer is a %s %s", review.APIVersion, review.Kind)
	}
	if !reflect.DeepEqual(review.Spec, authenticationv1.TokenReviewSpec{}) {
		t.Error("the answer carries the spec")
	}
	return review.Status
}

func TestReviewsAsTheAPIServerNeedsThem(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	out := &logs{}
	h := connected(t, out, p.issuer()).Handler()
	good := k.token(t, p.good())
	both := k.token(t, claimsOf(p.good()).but(claims{"aud": []string{"https://kubernetes.default.svc", "tipstaff"}}))
	for _, row := range []struct {
		name      string
		token     string
		audiences []string
		want      []string
		err       string
	}{
		{"the answer names the audience that token, config and API server share", good, []string{"https://kubernetes.default.svc", "tipstaff"}, []string{"tipstaff"}, ""},
		{"an audience of the token that the config doesn't accept isn't named", both, []string{"https://kubernetes.default.svc", "tipstaff"}, []string{"tipstaff"}, ""},
		{"an audience asked for twice is named once", good, []string{"tipstaff", "tipstaff"}, []string{"tipstaff"}, ""},
		{"a review without audiences gets none", good, nil, nil, ""},
		{"an API server that doesn't ask for the token's audience gets nobody", good, []string{"https://kubernetes.default.svc"}, nil,
			`issuer "ci": token is for none of the audiences that the API server asks for (its --api-audiences)`},
		{"an accepted audience that the token isn't for doesn't count", good, []string{"other-cluster"}, nil,
			`issuer "ci": token is for none of the audiences that the API server asks for (its --api-audiences)`},
		{"a refused token says why", k.token(t, claimsOf(p.good()).but(claims{"exp": 1})), []string{"tipstaff"}, nil, `issuer "ci": token is expired`},
		{"a revoked run says why", k.token(t, claimsOf(p.good()).but(claims{"run_id": "run-revoked"})), []string{"tipstaff"}, nil,
			`issuer "ci": run "run-revoked" is revoked: compromised`},
	} {
		t.Run(row.name, func(t *testing.T) {
			st := answerOf(t, post(t, h, reviewBody(t, row.token, row.audiences...)))
			if st.Error != row.err || st.Authenticated != (row.err == "") || !slices.Equal(st.Audiences, row.want) {
				t.Errorf("got %+v", st)
			}
			if row.err != "" && !reflect.DeepEqual(st.User, authenticationv1.UserInfo{}) {
				t.Errorf("a refusal names a user: %+v", st.User)
			}
			if row.err == "" {
				want := authenticationv1.UserInfo{
					Username: "agent:ci:deployer",
					Groups:   []string{"tipstaff:agents", "tipstaff:profile:default", "tipstaff:run:ci:run-7"},
					Extra: map[string]authenticationv1.ExtraValue{
						"tipstaff.dev/issuer": {"ci"}, "tipstaff.dev/run": {"run-7"}, "authentication.kubernetes.io/credential-id": {"JTI=t-1"},
					},
				}
				if !reflect.DeepEqual(st.User, want) {
					t.Errorf("user %+v, want %+v", st.User, want)
				}
			}
		})
	}
}

func TestTokensThatAreNotOursArePassedOverQuietly(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	out := &logs{}
	h := connected(t, out, p.issuer()).Handler()
	for name, token := range map[string]string{
		"another issuer's": k.token(t, claimsOf(p.good()).but(claims{"iss": "https://kubernetes.default.svc"})),
		"a bootstrap one":  "abcdef.0123456789abcdef",
		"a large opaque":   strings.Repeat("x", 500<<10),
	} {
		if st := answerOf(t, post(t, h, reviewBody(t, token, "tipstaff"))); !reflect.DeepEqual(st, authenticationv1.TokenReviewStatus{}) {
			t.Errorf("%s: %+v", name, st)
		}
	}
	if out.String() != "" {
		t.Errorf("it made noise: %s", out)
	}
}

func TestMalformedReviewsAreRefused(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	h := connected(t, &logs{}, p.issuer()).Handler()
	for _, row := range []struct {
		name, body string
		code       int
	}{
		{"nothing", ``, 400},
		{"no JSON", `token`, 400},
		{"null", `null`, 400},
		{"a list", `[]`, 400},
		{"two values", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"x"}} {}`, 400},
		{"an old version", `{"apiVersion":"authentication.k8s.io/v1beta1","kind":"TokenReview","spec":{"token":"x"}}`, 400},
		{"another kind", `{"apiVersion":"authentication.k8s.io/v1","kind":"SubjectAccessReview","spec":{"token":"x"}}`, 400},
		{"names in other letters", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","Spec":{"token":"x"}}`, 400},
		{"no token", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{}}`, 400},
		{"two tokens", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"x","token":"y"}}`, 400},
		{"a token that is a number", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":1}}`, 400},
		{"too large", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"` + strings.Repeat("x", maxReviewBytes) + `"}}`, 413},
		{"audiences that are numbers", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"x","audiences":[1]}}`, 400},
		{"too many audiences", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"x","audiences":["a"` + strings.Repeat(`,"a"`, maxAudiences) + `]}}`, 400},
		{"many audiences are fine", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"x","audiences":["a"` + strings.Repeat(`,"a"`, maxAudiences-1) + `]}}`, 200},
		{"names twice where we don't look", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","metadata":{"a":1,"a":2},"spec":{"token":"x"}}`, 400},
		{"bytes that are no Unicode", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"` + "\xff" + `"}}`, 400},
		{"a field of a later Kubernetes is fine", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"x","later":1}}`, 200},
	} {
		t.Run(row.name, func(t *testing.T) {
			if w := post(t, h, []byte(row.body)); w.Code != row.code {
				t.Errorf("code %d, want %d: %s", w.Code, row.code, w.Body)
			}
		})
	}
	for _, row := range []struct {
		name, method, path, contentType string
		code                            int
	}{
		{"a GET", http.MethodGet, "/tokenreview", "application/json", 405},
		{"another path", http.MethodPost, "/", "application/json", 404},
		{"another content type", http.MethodPost, "/tokenreview", "application/yaml", 415},
		{"no content type", http.MethodPost, "/tokenreview", "", 415},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), row.method, row.path, bytes.NewReader(reviewBody(t, "x")))
			r.Header.Set("Content-Type", row.contentType)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != row.code {
				t.Errorf("code %d, want %d", w.Code, row.code)
			}
		})
	}
}

type panickingRevoked struct{}

func (panickingRevoked) Revoked(a v1alpha1.Agent) (string, bool, error) {
	panic("claims: " + a.Owner)
}

func TestAPanicIsARefusalAndTellsNothing(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	out := &logs{}
	a := newAuthenticator(t, panickingRevoked{}, out, p.issuer())
	if err := a.issuers[p.URL].connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	token := k.token(t, claimsOf(p.good()).but(claims{"act": claims{"sub": "alice-secret"}}))
	st := answerOf(t, post(t, a.Handler(), reviewBody(t, token, "tipstaff")))
	if want := (authenticationv1.TokenReviewStatus{Error: "internal error"}); !reflect.DeepEqual(st, want) {
		t.Errorf("got %+v", st)
	}
	if strings.Contains(out.String(), "alice-secret") || !strings.Contains(out.String(), "panic in a token review") {
		t.Errorf("log: %s", out)
	}
}

// TestRefusalsQuoteNoClaim puts a word into every claim of refused tokens and
// looks for it in answers and logs.
func TestRefusalsQuoteNoClaim(t *testing.T) {
	t.Parallel()
	const word = "sesame"
	k, other := rsaKey("k1", 0), rsaKey(word, 1)
	p := newProvider(t, k)
	is := p.issuer()
	is.Mappings[0].Model = "string(int(claims.model))"
	out := &logs{}
	h := connected(t, out, is).Handler()
	for _, token := range []string{
		k.token(t, claimsOf(p.good()).but(claims{"model": word})),
		k.token(t, claimsOf(p.good()).but(claims{"aud": word})),
		k.token(t, claimsOf(p.good()).but(claims{"sub": "system:" + word, "model": "1"})),
		k.token(t, claimsOf(p.good()).but(claims{"exp": word})),
		k.token(t, claimsOf(p.good()).but(claims{"aud": claims{word: word}})),
		other.token(t, claimsOf(p.good()).but(claims{"sub": word})),
	} {
		w := post(t, h, reviewBody(t, token, "tipstaff"))
		if st := answerOf(t, w); st.Authenticated || st.Error == "" || strings.Contains(w.Body.String(), word) {
			t.Errorf("got %s", w.Body)
		}
		if strings.Contains(out.String(), word) || strings.Contains(out.String(), strings.Split(token, ".")[2]) {
			t.Errorf("logged: %s", out)
		}
	}
}

func FuzzTokenReview(f *testing.F) {
	k := rsaKey("k1", 0)
	p := newProvider(f, k)
	h := connected(f, &logs{}, p.issuer()).Handler()
	good := k.token(f, p.good())
	f.Add(reviewBody(f, good, "tipstaff"))
	f.Add(reviewBody(f, "x"))
	f.Add([]byte(``))
	f.Add([]byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"x","audiences":[1]}}`))
	f.Add([]byte(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","metadata":{"creationTimestamp":7},"spec":{"token":"x"}}`))
	f.Add([]byte(strings.Repeat(`{"spec":`, 2000)))
	f.Fuzz(func(t *testing.T, body []byte) {
		w := post(t, h, body)
		switch w.Code {
		case http.StatusOK:
			if st := answerOf(t, w); st.Authenticated && !bytes.Contains(body, []byte(good)) {
				t.Errorf("a body without the good token is %+v", st.User)
			}
		case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		default:
			t.Errorf("code %d", w.Code)
		}
	})
}

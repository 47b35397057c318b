package authn

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// values are the collectors' values by name{label,…}; of a histogram, its count.
func values(t testing.TB, cs ...prometheus.Collector) map[string]float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	for _, c := range cs {
		if err := reg.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			if ls := m.GetLabel(); len(ls) > 0 {
				var vs []string
				for _, l := range ls {
					vs = append(vs, l.GetName()+"="+l.GetValue())
				}
				name += "{" + strings.Join(vs, ",") + "}"
			}
			out[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

// TestMetricsSayHowTokensFare also holds that no label comes from a token.
func TestMetricsSayHowTokensFare(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p, down := newProvider(t, k), newProvider(t, k)
	is, other := p.issuer(), down.issuer()
	is.Mappings[0].Name, other.Name = "jobs", "down"
	a := newAuthenticator(t, revokedRuns{"run-revoked": "x"}, &logs{}, is, other)
	i := a.issuers[p.URL]
	if err := i.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := a.Handler()
	good := k.token(t, p.good())
	for _, token := range []string{
		good, good, good, "abcdef.0123456789abcdef",
		k.token(t, claimsOf(p.good()).but(claims{"run_id": "run-revoked"})),
		k.token(t, claimsOf(p.good()).but(claims{"exp": 1})),
		k.token(t, claimsOf(p.good()).but(claims{"run_id": "a b"})),
		k.token(t, claimsOf(p.good()).but(claims{"aud": "other-cluster"})),
		k.token(t, down.good()),
	} {
		answerOf(t, post(t, h, reviewBody(t, token, "tipstaff")))
	}
	authenticate(t, a, good)
	now := time.Now().Add(time.Minute)
	i.now = func() time.Time { return now }
	got := values(t, a.Collectors()...)
	if age := got["tipstaff_authn_keyset_age_seconds{issuer=ci}"]; age < 59 || age > 120 {
		t.Errorf("the keys are %v s old, want 60", age)
	}
	delete(got, "tipstaff_authn_keyset_age_seconds{issuer=ci}")
	const n = "tipstaff_authn_reviews_total"
	want := map[string]float64{
		n + "{issuer=ci,mapping=jobs,outcome=accepted}":  4,
		n + "{issuer=,mapping=,outcome=passed_over}":     1,
		n + "{issuer=ci,mapping=jobs,outcome=revoked}":   1,
		n + "{issuer=ci,mapping=,outcome=refused}":       1,
		n + "{issuer=ci,mapping=jobs,outcome=refused}":   2,
		n + "{issuer=down,mapping=,outcome=unavailable}": 1,
		"tipstaff_authn_verify_duration_seconds":         6,
		"tipstaff_authn_cache_hits_total":                3,
		"tipstaff_authn_active_runs":                     1,
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

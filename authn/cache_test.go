package authn

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/access"
)

// clocked is a connected Authenticator of one issuer whose clock can be moved.
func clocked(t testing.TB, b Bindings, is Issuer) (*Authenticator, *atomic.Int64) {
	t.Helper()
	a, err := New(Config{Issuers: []Issuer{is}}, access.Limits{}, revokedRuns{}, b, discard())
	if err != nil {
		t.Fatal(err)
	}
	ahead := &atomic.Int64{}
	i := a.issuers[is.URL]
	i.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	if err := i.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	return a, ahead
}

func hits(t testing.TB, a *Authenticator) int {
	return int(values(t, a.metrics.hits)["tipstaff_authn_cache_hits_total"])
}

func TestI9_ARememberedTokenIsStillAskedAbout(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	b := &ensured{}
	a, _ := clocked(t, b, p.issuer())
	token := k.token(t, p.good())
	first, _ := authenticate(t, a, token)
	for range 3 {
		if again, reason := authenticate(t, a, token); reason != "" || again != first {
			t.Errorf("got %+v %q, want %+v", again, reason, first)
		}
	}
	if hits(t, a) != 3 || b.count() != 4 {
		t.Errorf("%d hits, %d times ensured; want 3 and 4", hits(t, a), b.count())
	}
	b.err = errors.New("sesame")
	if _, reason := authenticate(t, a, token); reason != `issuer "ci": what the run may do could not be put in force` {
		t.Errorf("not in force: %q", reason)
	}
	b.err = nil
	a.revoked = revokedRuns{"run-7": "compromised"}
	if _, reason := authenticate(t, a, token); reason != `issuer "ci": run "run-7" is revoked: compromised` {
		t.Errorf("revoked: %q", reason)
	}
	a.revoked = revokedRuns(nil)
	if _, reason := authenticate(t, a, token); reason != `issuer "ci": it could not be checked whether the run is revoked` {
		t.Errorf("unknown: %q", reason)
	}
}

func TestARememberedTokenEndsInTime(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	for _, row := range []struct {
		name   string
		maxAge time.Duration
		lives  time.Duration // from its iat on
		want   string
	}{
		{"at its expiry and the skew", 0, time.Hour, "token is expired"},
		{"at the issuer's maxTokenAge and the skew", 30 * time.Minute, 30 * time.Minute, "token is older than the issuer's maxTokenAge"},
	} {
		t.Run(row.name, func(t *testing.T) {
			is := p.issuer()
			is.MaxTokenAge = metav1.Duration{Duration: row.maxAge}
			a, ahead := clocked(t, nil, is)
			issued := time.Now()
			token := k.token(t, claimsOf(p.good()).but(claims{"iat": issued.Unix(), "exp": issued.Add(time.Hour).Unix()}))
			authenticate(t, a, token)
			ahead.Store(int64(row.lives + defaultClockSkew - 5*time.Second))
			if _, reason := authenticate(t, a, token); reason != "" || hits(t, a) != 1 {
				t.Errorf("just before: %q, %d hits", reason, hits(t, a))
			}
			ahead.Store(int64(row.lives + defaultClockSkew + 2*time.Second))
			if _, reason := authenticate(t, a, token); reason != `issuer "ci": `+row.want || hits(t, a) != 1 {
				t.Errorf("after: %q, %d hits", reason, hits(t, a))
			}
		})
	}
}

func TestI1_AWithdrawnKeyVerifiesNoRememberedToken(t *testing.T) {
	t.Parallel()
	k1, k2 := rsaKey("k1", 0), rsaKey("k2", 1)
	p := newProvider(t, k1)
	for _, row := range []struct {
		name    string
		refresh func(a *Authenticator, ahead *atomic.Int64)
	}{
		{"after the refresh in the background", func(a *Authenticator, _ *atomic.Int64) {
			if err := a.issuers[p.URL].connect(t.Context()); err != nil {
				t.Error(err)
			}
		}},
		{"after another key id had the keys fetched", func(a *Authenticator, ahead *atomic.Int64) {
			ahead.Store(int64(refetchInterval))
			if _, reason := authenticate(t, a, k2.token(t, p.good())); reason != "" {
				t.Errorf("the new key: %q", reason)
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			p.rotate(k1)
			a, ahead := clocked(t, nil, p.issuer())
			token := k1.token(t, p.good())
			for range 2 {
				if _, reason := authenticate(t, a, token); reason != "" {
					t.Fatal(reason)
				}
			}
			if hits(t, a) != 1 {
				t.Fatalf("%d hits, want 1", hits(t, a))
			}
			p.rotate(k2)
			row.refresh(a, ahead)
			if _, reason := authenticate(t, a, token); reason != `issuer "ci": `+malformed {
				t.Errorf("got %q", reason)
			}
			if got, reason := authenticate(t, a, k2.token(t, p.good())); reason != "" || got.Run != "run-7" {
				t.Errorf("the new key: %q", reason)
			}
		})
	}
}

func TestARefusedTokenIsNotRemembered(t *testing.T) {
	t.Parallel()
	k := rsaKey("k1", 0)
	p := newProvider(t, k)
	a, _ := clocked(t, nil, p.issuer())
	for _, token := range []string{k.token(t, claimsOf(p.good()).but(claims{"aud": "x"})), "a.b.c"} {
		authenticate(t, a, token)
		authenticate(t, a, token)
	}
	if n := len(a.tokens.lru.Keys()); n != 0 {
		t.Errorf("%d are remembered", n)
	}
}

// TestMemoryIsFlatOverAMillionTokens puts a million verified tokens in.
func TestMemoryIsFlatOverAMillionTokens(t *testing.T) {
	is := &issuer{now: time.Now}
	c := newTokens(maxCached)
	runs := newActiveRuns(1000, time.Now)
	until := time.Now().Add(time.Hour)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	fill := func(from, to int) {
		for i := from; i < to; i++ {
			k := keyOfToken(fmt.Sprint("token-", i))
			c.remember(k, &verified{by: is, until: until, agent: v1alpha1.Agent{Run: fmt.Sprint("run-", i)}})
			runs.seen(v1alpha1.RunKey(fmt.Sprint("run-", i)), until)
		}
	}
	fill(0, 50_000)
	before := heap()
	fill(50_000, 1_000_000)
	if after := heap(); after > before+before/4+(4<<20) {
		t.Errorf("the heap grew from %d to %d bytes", before, after)
	}
	if n := len(c.lru.Keys()); n != maxCached {
		t.Errorf("%d are remembered, want %d", n, maxCached)
	}
	if n := len(runs.until); n != 1000 {
		t.Errorf("%d runs are known, want 1000", n)
	}
}

func TestRunsAreActiveUntilTheirLastTokenEnds(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	r := newActiveRuns(2, func() time.Time { return now })
	want := func(n int) {
		t.Helper()
		if got := values(t, r)["tipstaff_authn_active_runs"]; got != float64(n) {
			t.Errorf("%v runs are active, want %d", got, n)
		}
	}
	r.seen("a", now.Add(time.Minute))
	r.seen("a", now.Add(time.Second)) // an older token doesn't shorten it
	r.seen("b", now.Add(time.Second))
	r.seen("c", now.Add(time.Hour)) // no room
	want(2)
	now = now.Add(2 * time.Second)
	r.seen("c", now.Add(time.Hour)) // b made room
	want(2)
	now = now.Add(2 * time.Minute)
	want(1)
}

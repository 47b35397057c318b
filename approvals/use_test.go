package approvals

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// usedAt is an approval of one DELETE or UPDATE that was used ago before noon,
// at resourceVersion 7 and generation 2 of object o.
func usedAt(operation string, ago time.Duration, change ...func(*v1alpha1.Approval)) *v1alpha1.Approval {
	a := pending()
	a.Spec.Request.Operation = operation
	decide(decision("alice", v1alpha1.VerdictApprove))(a)
	a.Status.Use = &v1alpha1.Use{RequestUID: "1", At: metav1.NewTime(noon.Add(-ago)), ObjectUID: "o", ResourceVersion: "7", Generation: 2}
	for _, f := range change {
		f(a)
	}
	return a
}

func ended(code int32, ago time.Duration) func(*v1alpha1.Approval) {
	return func(a *v1alpha1.Approval) {
		a.Status.Use.Outcome = &v1alpha1.Outcome{Code: code, At: metav1.NewTime(noon.Add(-ago))}
	}
}

func tried(n int32) func(*v1alpha1.Approval) {
	return func(a *v1alpha1.Approval) { a.Status.Use.Tries = n }
}

func TestI3_AgainOnlyWhereNothingWasCarriedOut(t *testing.T) {
	t.Parallel()
	const never = -1
	try := func(p v1alpha1.Proof, rv string, generation int64) v1alpha1.Try {
		return v1alpha1.Try{RequestUID: "2", ObjectUID: "o", ResourceVersion: rv, Generation: generation, Proof: p}
	}
	tests := []struct {
		name string
		a    *v1alpha1.Approval
		t    v1alpha1.Try
		want time.Duration
	}{
		{"delete: a conflict's retry goes at once", usedAt("DELETE", time.Second), try(v1alpha1.ProofDelete, "8", 2), 0},
		{"delete: a duplicate at the same version waits", usedAt("DELETE", time.Second), try(v1alpha1.ProofDelete, "7", 2), 4 * time.Second},
		{"delete: a later try at the same version goes", usedAt("DELETE", settle), try(v1alpha1.ProofDelete, "7", 2), 0},
		{"delete: not after the window", usedAt("DELETE", retryWindow+time.Second), try(v1alpha1.ProofDelete, "8", 2), never},
		{"delete: another object is another request", usedAt("DELETE", time.Second), v1alpha1.Try{ObjectUID: "p", ResourceVersion: "8", Proof: v1alpha1.ProofDelete}, never},
		{"delete: told that it was refused, it goes at once", usedAt("DELETE", time.Second, ended(403, 0)), try(v1alpha1.ProofDelete, "7", 2), 0},
		{"delete: told that it was carried out, it is over", usedAt("DELETE", time.Second, ended(200, 0)), try(v1alpha1.ProofDelete, "8", 2), never},
		{"update: told that it was carried out, it is over", usedAt("UPDATE", time.Second, ended(200, 0)), try(v1alpha1.ProofGeneration, "8", 2), never},
		{"update: a conflict's retry at the same generation goes at once", usedAt("UPDATE", time.Second), try(v1alpha1.ProofGeneration, "8", 2), 0},
		{"update: the generation moved, so it may be this that moved it", usedAt("UPDATE", time.Second), try(v1alpha1.ProofGeneration, "8", 3), never},
		{"update: no generation, another version", usedAt("UPDATE", time.Second), try(v1alpha1.ProofVersion, "8", 0), never},
		{"update: no generation, the same version, at once", usedAt("UPDATE", 2*time.Second), try(v1alpha1.ProofVersion, "7", 0), 3 * time.Second},
		{"update: no generation, the same version, later", usedAt("UPDATE", settle), try(v1alpha1.ProofVersion, "7", 0), 0},
		{"update: a generation of zero proves nothing", usedAt("UPDATE", time.Second, func(a *v1alpha1.Approval) { a.Status.Use.Generation = 0 }), try(v1alpha1.ProofGeneration, "8", 0), never},
		{"update: told of the only try", usedAt("UPDATE", time.Second, ended(409, 0)), try(v1alpha1.ProofVersion, "8", 0), 0},
		{"update: told of the last try, where one before it may be under way", usedAt("UPDATE", time.Second, ended(409, 0), tried(1)), try(v1alpha1.ProofVersion, "8", 0), never},
		{"a subresource has no proof", usedAt("UPDATE", settle), try(v1alpha1.ProofNone, "7", 0), never},
		{"told that it was refused, anything goes", usedAt("CREATE", time.Second, ended(403, 0)), v1alpha1.Try{RequestUID: "2"}, 0},
		{"told long after", usedAt("CREATE", time.Hour-time.Second, ended(403, time.Second)), v1alpha1.Try{RequestUID: "2"}, 0},
		{"told too long ago", usedAt("CREATE", time.Hour, ended(403, retryWindow+time.Second)), v1alpha1.Try{RequestUID: "2"}, never},
		{"told that it went through", usedAt("CREATE", time.Second, ended(201, 0)), v1alpha1.Try{RequestUID: "2"}, never},
		{"told that it is not known", usedAt("CREATE", time.Second, ended(504, 0)), v1alpha1.Try{RequestUID: "2"}, never},
		{"told 400, which a stored change can end with", usedAt("CREATE", time.Second, ended(http.StatusBadRequest, 0)), v1alpha1.Try{RequestUID: "2"}, never},
		{"told 406, likewise", usedAt("CREATE", time.Second, ended(http.StatusNotAcceptable, 0)), v1alpha1.Try{RequestUID: "2"}, never},
		{"told by the backend of a connection", usedAt("CONNECT", time.Second, ended(403, 0)), v1alpha1.Try{RequestUID: "2"}, never},
		{"expired", usedAt("DELETE", time.Second, expired), try(v1alpha1.ProofDelete, "8", 2), never},
		{"tried too often", usedAt("DELETE", time.Second, tried(maxTries)), try(v1alpha1.ProofDelete, "8", 2), never},
		{"no longer enough votes", usedAt("DELETE", time.Second, quorum(2)), try(v1alpha1.ProofDelete, "8", 2), never},
		{"never used", pending(), try(v1alpha1.ProofDelete, "8", 2), never},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			wait, why := again(tt.a, tt.t, noon)
			if (why != "") != (tt.want == never) || why == "" && wait != tt.want {
				t.Errorf("wait %s, why %q; want %s", wait, why, tt.want)
			}
		})
	}
}

// TestI3_NoInterleavingTakesEffectTwice plays an API server and an agent that
// may do everything but sign: send the request any number of times and keep each
// under way as long as it likes, have it refused, read stale, touch the object,
// and undo the change once it is made.
func TestI3_NoInterleavingTakesEffectTwice(t *testing.T) {
	t.Parallel()
	type request struct {
		uid string
		rv  int
	}
	effects, retries := 0, 0
	for seed := range uint64(20_000) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		proof := []v1alpha1.Proof{v1alpha1.ProofNone, v1alpha1.ProofVersion, v1alpha1.ProofGeneration}[rnd.IntN(3)]
		a := usedAt("UPDATE", 0)
		a.Status.Use = nil
		now, rv, generation := noon, 10, int64(1)
		changed := false          // what the request asks for stands
		was := map[int]bool{}     // whether it stood at a version
		gen := map[int]int64{}    // the generation at a version
		last := map[string]bool{} // uids whose answer was told
		note := func() { was[rv], gen[rv] = changed, generation }
		note()
		var underWay []request
		done := 0
		for step := range 60 {
			switch rnd.IntN(7) {
			case 0, 1: // admission, on the object as it is or as it was
				at := max(10, rv-rnd.IntN(3))
				if was[at] {
					continue // another old object is another fingerprint
				}
				try := v1alpha1.Try{RequestUID: fmt.Sprint(step), ObjectUID: "o", ResourceVersion: fmt.Sprint(at), Proof: proof}
				if proof == v1alpha1.ProofGeneration {
					try.Generation = gen[at]
				}
				tries := int32(0)
				if a.Status.Use != nil {
					if wait, why := again(a, try, now); why != "" || wait > 0 {
						continue
					}
					tries = a.Status.Use.Tries + 1
					retries++
				}
				a.Status.Use = &v1alpha1.Use{RequestUID: try.RequestUID, At: metav1.NewTime(now), ObjectUID: "o", ResourceVersion: try.ResourceVersion, Generation: try.Generation, Tries: tries}
				underWay = append(underWay, request{try.RequestUID, at})
			case 2, 3: // one that is under way ends: carried out, or refused and told
				if len(underWay) == 0 {
					continue
				}
				i := rnd.IntN(len(underWay))
				r := underWay[i]
				underWay = append(underWay[:i:i], underWay[i+1:]...)
				if r.rv == rv && rnd.IntN(3) > 0 {
					rv++
					changed = true
					done++
					if proof == v1alpha1.ProofGeneration {
						generation++
					}
					note()
				} else if a.Status.Use.RequestUID == r.uid && !last[r.uid] {
					last[r.uid] = true
					a.Status.Use.Outcome = &v1alpha1.Outcome{Code: 403, At: metav1.NewTime(now)}
				}
			case 4: // somebody touches the object
				rv++
				note()
			case 5: // the agent undoes it
				if changed {
					changed = false
					rv++
					if proof == v1alpha1.ProofGeneration {
						generation++
					}
					note()
				}
			case 6:
				now = now.Add(time.Duration(rnd.IntN(8)) * time.Second)
			}
		}
		if done > 1 {
			t.Fatalf("seed %d, proof %d: one signature took effect %d times", seed, proof, done)
		}
		effects += done
	}
	if effects < 1000 || retries < 1000 {
		t.Errorf("%d effects and %d retries show nothing", effects, retries)
	}
}

// TestUseAgain: of parallel retries one gets it, and Ensure finds it before it
// opens the next approval.
func TestUseAgain(t *testing.T) {
	t.Parallel()
	s := world(t, "tipstaff", interceptor.Funcs{})
	a := ensure(t, s, spec("a"))
	approveAs(t, s, a.Name, "alice", v1alpha1.VerdictApprove)
	try := v1alpha1.Try{RequestUID: "1", ObjectUID: "o", ResourceVersion: "7", Generation: 2, Proof: v1alpha1.ProofGeneration}
	if got, err := s.Use(t.Context(), a.Name, try); err != nil || got.Status.Use.ResourceVersion != "7" || got.Status.Use.Generation != 2 {
		t.Fatalf("got %+v, %v", got.Status.Use, err)
	}
	s.now = func() time.Time { return time.Now().Add(settle + time.Second) }
	if got, err := s.Ensure(t.Context(), spec("a"), try, noShow); err != nil || got.Name != a.Name || got.Status.Phase != v1alpha1.PhaseUsed {
		t.Fatalf("Ensure found %s %s, %v", got.Name, got.Status.Phase, err)
	}
	var through atomic.Int32
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			same := try
			same.RequestUID = fmt.Sprint("again-", i)
			if got, err := s.Use(t.Context(), a.Name, same); err == nil && got.Status.Use.RequestUID == same.RequestUID {
				through.Add(1)
			}
		})
	}
	group.Wait()
	if through.Load() != 1 {
		t.Errorf("%d of the retries got it", through.Load())
	}
	got, err := Find(t.Context(), s.client, a.Name)
	if err != nil || got.Status.Use.Tries != 1 {
		t.Fatalf("use is %+v, %v", got.Status.Use, err)
	}
	revoked(s).set(map[string]string{a.Spec.Agent.Run: "stop"}, nil)
	try.RequestUID, try.ResourceVersion = "3", "8"
	if got, err := s.Use(t.Context(), a.Name, try); err != nil || got.Status.Use.RequestUID == "3" {
		t.Errorf("a revoked run's retry: %+v, %v", got.Status.Use, err)
	}
	revoked(s).set(nil, nil)
	if next := func() *v1alpha1.Approval {
		try.Generation = 3
		a, _ := s.Ensure(t.Context(), spec("a"), try, noShow)
		return a
	}(); next.Name == a.Name {
		t.Error("a second request is answered by the used approval")
	}
}

// TestADenialStandsBeforeARetry: who denies the next approval means the request.
func TestADenialStandsBeforeARetry(t *testing.T) {
	t.Parallel()
	s := world(t, "tipstaff", interceptor.Funcs{})
	first := ensure(t, s, spec("a"))
	approveAs(t, s, first.Name, "alice", v1alpha1.VerdictApprove)
	try := v1alpha1.Try{RequestUID: "1", ObjectUID: "o", ResourceVersion: "7", Proof: v1alpha1.ProofDelete}
	if _, err := s.Use(t.Context(), first.Name, try); err != nil {
		t.Fatal(err)
	}
	second := ensure(t, s, spec("a"))
	if second.Name == first.Name {
		t.Fatal("a try without proof is answered by the used one")
	}
	approveAs(t, s, second.Name, "alice", v1alpha1.VerdictDeny)
	if got, err := s.Ensure(t.Context(), spec("a"), try, noShow); err != nil || got.Name != second.Name {
		t.Errorf("got %s %s, %v", got.Name, got.Status.Phase, err)
	}
}

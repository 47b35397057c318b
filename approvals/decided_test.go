package approvals

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

func TestDecidedReturnsWhenItIs(t *testing.T) {
	t.Parallel()
	s := running(t, world(t, "tipstaff", interceptor.Funcs{}))
	soon := spec("c")
	soon.ExpiresAt = metav1.NewTime(time.Now().Add(2 * time.Second).Truncate(time.Second))
	yes, no, over := ensure(t, s, spec("a")), ensure(t, s, spec("b")), ensure(t, s, soon)
	type end struct {
		phase v1alpha1.Phase
		err   error
	}
	ends := map[*v1alpha1.Approval]chan end{yes: make(chan end, 1), no: make(chan end, 1), over: make(chan end, 1)}
	for a, ch := range ends {
		go func() {
			p, err := s.Decided(t.Context(), a.Name, a.Spec.Agent)
			ch <- end{p, err}
		}()
	}
	eventually(t, "three who wait", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.waiters) == 3
	})
	approveAs(t, s, yes.Name, "alice", v1alpha1.VerdictApprove)
	approveAs(t, s, no.Name, "alice", v1alpha1.VerdictDeny)
	for a, want := range map[*v1alpha1.Approval]v1alpha1.Phase{yes: v1alpha1.PhaseApproved, no: v1alpha1.PhaseDenied, over: v1alpha1.PhaseExpired} {
		if got := <-ends[a]; got.phase != want || got.err != nil {
			t.Errorf("%s %v, want %s", got.phase, got.err, want)
		}
	}
	if len(s.waiters) != 0 {
		t.Errorf("%d still wait", len(s.waiters))
	}
}

// Whatever else is broken, nobody waits past an approval's end.
func TestDecidedReturnsAtTheEndThoughNothingIsHeard(t *testing.T) {
	t.Parallel()
	s := world(t, "tipstaff", interceptor.Funcs{}) // and nobody watches
	sp := spec("a")
	sp.ExpiresAt = metav1.NewTime(time.Now().Add(2 * time.Second).Truncate(time.Second))
	a := ensure(t, s, sp)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if phase, err := s.Decided(ctx, a.Name, a.Spec.Agent); phase != v1alpha1.PhaseExpired || err != nil {
		t.Errorf("%q %v", phase, err)
	}
}

func TestDecidedIsForTheApprovalsRunAlone(t *testing.T) {
	t.Parallel()
	s := running(t, world(t, "tipstaff", interceptor.Funcs{}))
	a := ensure(t, s, spec("a"))
	approveAs(t, s, a.Name, "alice", v1alpha1.VerdictApprove)
	for _, change := range []func(*v1alpha1.Agent){
		func(ag *v1alpha1.Agent) { ag.Run += "x" },
		func(ag *v1alpha1.Agent) { ag.Issuer += "x" },
		func(ag *v1alpha1.Agent) { ag.User += "x" },
	} {
		agent := a.Spec.Agent
		change(&agent)
		if phase, err := s.Decided(t.Context(), a.Name, agent); !errors.Is(err, ErrOtherRun) {
			t.Errorf("%+v is told %q, %v", agent, phase, err)
		}
	}
	if phase, err := s.Decided(t.Context(), "nosuch", a.Spec.Agent); !apierrors.IsNotFound(err) {
		t.Errorf("of none: %q, %v", phase, err)
	}
	s.synced.Store(false)
	if _, err := s.Decided(t.Context(), a.Name, a.Spec.Agent); !errors.Is(err, ErrNotReady) {
		t.Errorf("before the store is ready: %v", err)
	}
	s.synced.Store(true)
}

// Those who wait cost the API server nothing, however many they are.
func TestDecidedAsksTheWatch(t *testing.T) {
	t.Parallel()
	var reads atomic.Int32
	s := running(t, world(t, "tipstaff", interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			reads.Add(1)
			return c.Get(ctx, key, obj, opts...)
		},
	}))
	a := ensure(t, s, spec("a"))
	eventually(t, "sight of it", func() bool { _, ok, _ := s.informer.GetIndexer().GetByKey(a.Name); return ok })
	before := reads.Load()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if phase, err := s.Decided(ctx, a.Name, a.Spec.Agent); phase != v1alpha1.PhasePending || err != nil {
		t.Errorf("when its time is over: %q, %v", phase, err)
	}
	if n := reads.Load() - before; n != 0 {
		t.Errorf("%d reads", n)
	}
}

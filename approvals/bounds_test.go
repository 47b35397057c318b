package approvals

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// running is s with Run under way and in sync.
func running(t *testing.T, s *Store) *Store {
	t.Helper()
	s.synced.Store(false)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	eventually(t, "sync", s.HasSynced)
	return s
}

// requestOf is the spec of the run's i-th request.
func requestOf(run string, i int) v1alpha1.ApprovalSpec {
	sp := spec("a")
	sp.Agent.Run = run
	sp.Fingerprint = v1alpha1.Fingerprint(fmt.Sprintf("%040x%024x", i, len(run)))
	return sp
}

func TestOneRunHasSoManyPendingAtMost(t *testing.T) {
	t.Parallel()
	s := running(t, world(t, "tipstaff", interceptor.Funcs{}))
	var first *v1alpha1.Approval
	for i := range maxPendingPerRun {
		a := ensure(t, s, requestOf("greedy", i))
		if first == nil {
			first = a
		}
	}
	pending := func(key string) int {
		names, err := s.informer.GetIndexer().IndexKeys(indexPending, key)
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	greedy := requestOf("greedy", 0).Agent.Key()
	eventually(t, "sight of all", func() bool { return pending(string(greedy)) == maxPendingPerRun })
	if _, err := s.Ensure(t.Context(), requestOf("greedy", maxPendingPerRun), v1alpha1.Try{}, noShow); !errors.Is(err, v1alpha1.ErrTooMany) {
		t.Errorf("one more: %v", err)
	}
	// What is pending answers still, others have their own share, and a decision makes room.
	if a := ensure(t, s, requestOf("greedy", 0)); a.Name != first.Name {
		t.Errorf("a retry is answered by %s, not %s", a.Name, first.Name)
	}
	ensure(t, s, requestOf("modest run", 0))
	approveAs(t, s, first.Name, "alice", v1alpha1.VerdictDeny)
	eventually(t, "room", func() bool { return pending(string(greedy)) < maxPendingPerRun })
	ensure(t, s, requestOf("greedy", maxPendingPerRun))
}

// What a person is shown costs more than all the rest: it is made once.
func TestOnlyAnOpenedApprovalIsShown(t *testing.T) {
	t.Parallel()
	s := running(t, world(t, "tipstaff", interceptor.Funcs{}))
	shown := 0
	show := func(sp *v1alpha1.ApprovalSpec) error {
		shown++
		sp.Diff, sp.DiffBytes = "+a: b\n", 6
		return nil
	}
	var name string
	for range 3 {
		a, err := s.Ensure(t.Context(), spec("a"), v1alpha1.Try{}, show)
		if err != nil {
			t.Fatal(err)
		}
		name = a.Name
		eventually(t, "sight of it", func() bool { _, seen, _ := s.informer.GetStore().GetByKey(name); return seen })
	}
	if a := find(t, s, name); shown != 1 || a.Spec.Diff != "+a: b\n" {
		t.Errorf("shown %d times, %q stands in it", shown, a.Spec.Diff)
	}
	approveAs(t, s, name, "alice", v1alpha1.VerdictApprove)
	eventually(t, "phase", func() bool { return phaseOf(s, name) == v1alpha1.PhaseApproved })
	if a := find(t, s, name); a.Spec.Diff != "+a: b\n" {
		t.Errorf("a write of the phase leaves %q of the difference", a.Spec.Diff)
	}
	broken := errors.New("no YAML")
	if _, err := s.Ensure(t.Context(), spec("b"), v1alpha1.Try{}, func(*v1alpha1.ApprovalSpec) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("what can't be shown is opened: %v", err)
	}
}

// Finished approvals don't wait for anybody, and fill etcd all the same.
func TestWhatIsKeptIsBounded(t *testing.T) {
	t.Parallel()
	s := world(t, "tipstaff", interceptor.Funcs{})
	greedy, modest := requestOf("greedy", 0).Agent.Key(), requestOf("modest", 0).Agent.Key()
	full := func(run v1alpha1.RunKey) bool {
		err := s.bounded(run)
		if err != nil && !errors.Is(err, v1alpha1.ErrTooMany) {
			t.Fatal(err)
		}
		return err != nil
	}
	add := func(run string, i int, diffBytes int64) {
		a := &v1alpha1.Approval{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", run, i)}, Spec: requestOf(run, i)}
		a.Labels = map[string]string{v1alpha1.LabelRunKey: string(a.Spec.Agent.Key())}
		a.Spec.DiffBytes, a.Status.Phase = diffBytes, v1alpha1.PhaseExpired
		if err := s.informer.GetIndexer().Add(a); err != nil {
			t.Fatal(err)
		}
	}
	const mostOf = maxBytesPerRun / (68 << 10)
	for i := range mostOf {
		add("greedy", i, 3<<20) // cut to what is kept
	}
	if full(greedy) {
		t.Errorf("%d large ones are too many", mostOf)
	}
	add("greedy", mostOf, 64<<10)
	if !full(greedy) || full(modest) {
		t.Errorf("greedy is bounded: %t, and modest: %t", full(greedy), full(modest))
	}
	for i := range maxBytes / maxBytesPerRun * (mostOf + 1) {
		add(fmt.Sprintf("run-%d", i%100), i, 64<<10)
	}
	if !full(modest) {
		t.Error("the cluster is not bounded")
	}
}

func TestUndecidedOnesGoSoon(t *testing.T) {
	t.Parallel()
	s := &Store{retention: DefaultRetention}
	a := &v1alpha1.Approval{}
	if got := s.keep(a, v1alpha1.PhaseExpired); got != maxUndecided {
		t.Errorf("one that nobody looked at is kept for %s", got)
	}
	for _, p := range []v1alpha1.Phase{v1alpha1.PhaseDenied, v1alpha1.PhaseUsed, v1alpha1.PhaseCancelled} {
		if got := s.keep(a, p); got != DefaultRetention {
			t.Errorf("%s: kept for %s", p, got)
		}
	}
	a.Status.Decisions = []v1alpha1.Decision{{By: "alice", Verdict: v1alpha1.VerdictApprove}}
	if got := s.keep(a, v1alpha1.PhaseExpired); got != DefaultRetention {
		t.Errorf("one that somebody approved is kept for %s", got)
	}
	s.retention = time.Minute
	if got := s.keep(&v1alpha1.Approval{}, v1alpha1.PhaseExpired); got != time.Minute {
		t.Errorf("past the retention: %s", got)
	}
}

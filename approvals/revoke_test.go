package approvals

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// serve runs stores until the test ends, and waits until they watch.
func serve(t *testing.T, stores ...*Store) {
	t.Helper()
	for _, s := range stores {
		s.synced.Store(false)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	for _, s := range stores {
		eventually(t, "sync", s.HasSynced)
	}
}

func find(t *testing.T, s *Store, name string) *v1alpha1.Approval {
	t.Helper()
	a, err := Find(t.Context(), s.client, name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestI9_RevocationEndsWhatWaits(t *testing.T) {
	t.Parallel()
	s := world(t, "tipstaff", interceptor.Funcs{})
	serve(t, s)
	held, approved, used, other := ensure(t, s, spec("a")), ensure(t, s, spec("b")), ensure(t, s, spec("c")), spec("d")
	approveAs(t, s, approved.Name, "alice", v1alpha1.VerdictApprove)
	approveAs(t, s, used.Name, "alice", v1alpha1.VerdictApprove)
	if _, err := s.Use(t.Context(), used.Name, v1alpha1.Try{RequestUID: "1"}); err != nil {
		t.Fatal(err)
	}
	other.Agent.Run = "another"
	stays := ensure(t, s, other)
	waited := make(chan *v1alpha1.Approval, 1)
	go func() {
		a, err := s.Wait(t.Context(), held.Name)
		if err != nil {
			t.Error(err)
		}
		waited <- a
	}()
	for name, phase := range map[string]v1alpha1.Phase{
		held.Name: v1alpha1.PhasePending, approved.Name: v1alpha1.PhaseApproved, used.Name: v1alpha1.PhaseUsed,
	} {
		eventually(t, "phase", func() bool { return phaseOf(s, name) == phase })
	}

	revoked(s).set(map[string]string{held.Spec.Agent.Run: "it went astray."}, nil)
	if a := <-waited; a.Status.Phase != v1alpha1.PhaseCancelled || a.Status.Cancelled.Reason != "it went astray." {
		t.Errorf("the waiter got %+v", a.Status)
	}
	eventually(t, "cancellation of the approved one", func() bool { return phaseOf(s, approved.Name) == v1alpha1.PhaseCancelled })
	for name, want := range map[string]v1alpha1.Phase{
		held.Name: v1alpha1.PhaseCancelled, approved.Name: v1alpha1.PhaseCancelled, used.Name: v1alpha1.PhaseUsed, stays.Name: v1alpha1.PhasePending,
	} {
		if a := find(t, s, name); a.Status.Phase != want || (a.Status.Cancelled != nil) != (want == v1alpha1.PhaseCancelled) {
			t.Errorf("%s: %+v, want %s", name, a.Status, want)
		}
	}

	// Lifted again, what was cancelled stays so; the same request asks anew.
	revoked(s).set(nil, nil)
	if a, err := s.Use(t.Context(), approved.Name, v1alpha1.Try{RequestUID: "2"}); err != nil || a.Status.Phase != v1alpha1.PhaseCancelled || a.Status.Use != nil {
		t.Errorf("a cancelled approval is used: %+v %v", a.Status, err)
	}
	if a := ensure(t, s, spec("b")); a.Name == approved.Name || a.Status.Phase != v1alpha1.PhasePending {
		t.Errorf("the same request is answered by %s (%s)", a.Name, a.Status.Phase)
	}
	_, err := Decide(t.Context(), s.client, held.Name, Decision{Verdict: v1alpha1.VerdictApprove, Reason: "", Via: "kubectl"}, nil)
	if !errors.Is(err, ErrFinal) || !strings.Contains(err.Error(), "cancelled, since the run that asked is revoked: it went astray: ") {
		t.Errorf("a decision on a cancelled one: %v", err)
	}
	list, err := List(t.Context(), s.client)
	if err != nil {
		t.Fatal(err)
	}
	var table bytes.Buffer
	if err := WriteTable(&table, list.Items); err != nil || strings.Count(table.String(), "Cancelled") != 2 {
		t.Errorf("%v\n%s", err, &table)
	}
}

func TestI9_AnApprovalOfARevokedRunIsNotUsed(t *testing.T) {
	t.Parallel()
	s := world(t, "tipstaff", interceptor.Funcs{}) // it doesn't run: no watch cancels
	a := ensure(t, s, spec("a"))
	approveAs(t, s, a.Name, "alice", v1alpha1.VerdictApprove)
	away := errors.New("not known")
	revoked(s).set(nil, away)
	if _, err := s.Use(t.Context(), a.Name, v1alpha1.Try{RequestUID: "1"}); !errors.Is(err, away) {
		t.Errorf("where nobody knows: %v", err)
	}
	revoked(s).set(map[string]string{a.Spec.Agent.Run: strings.Repeat("ä", maxReasonLength+1)}, nil)
	got, err := s.Use(t.Context(), a.Name, v1alpha1.Try{RequestUID: "1"})
	if err != nil || got.Status.Phase != v1alpha1.PhaseCancelled || got.Status.Use != nil {
		t.Errorf("revoked: %+v %v", got, err)
	}
	if n := len([]rune(find(t, s, a.Name).Status.Cancelled.Reason)); n != maxReasonLength {
		t.Errorf("a reason of %d characters, which the API server refuses", n)
	}
}

// TestI9_RevokedWhileTipstaffWasDown: what stands at the start is looked at too,
// also when the revocations become known only later.
func TestI9_RevokedWhileTipstaffWasDown(t *testing.T) {
	t.Parallel()
	for _, knownLate := range []bool{false, true} {
		s := world(t, "tipstaff", interceptor.Funcs{})
		a := ensure(t, s, spec("a"))
		runs := map[string]string{a.Spec.Agent.Run: "it went astray"}
		if !knownLate {
			revoked(s).set(runs, nil)
			serve(t, s)
		} else {
			revoked(s).set(runs, errors.New("not known yet"))
			serve(t, s)
			eventually(t, "phase", func() bool { return phaseOf(s, a.Name) == v1alpha1.PhasePending })
			revoked(s).set(runs, nil)
		}
		eventually(t, "cancellation", func() bool { return phaseOf(s, a.Name) == v1alpha1.PhaseCancelled })
	}
}

// TestI9_TwoReplicasCancelAndUse has two replicas that know of the revocation
// and one that doesn't yet: each approval is used or cancelled, never both, and
// its end is written once.
func TestI9_TwoReplicasCancelAndUse(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	ends := map[string]int{}
	knows := world(t, "tipstaff", interceptor.Funcs{
		SubResourceUpdate: func(ctx context.Context, c client.Client, sub string, obj client.Object, opts ...client.SubResourceUpdateOption) error {
			err := c.SubResource(sub).Update(ctx, obj, opts...)
			a, ok := obj.(*v1alpha1.Approval)
			// Conditions follow in a write of their own.
			before := conditions{metav1.ConditionTrue, metav1.ConditionFalse, "NotUsed"}
			if ok && err == nil && (a.Status.Cancelled != nil || a.Status.Use != nil) && conditionsOf(a) == before {
				mu.Lock()
				defer mu.Unlock()
				ends[a.Name]++
			}
			return err
		},
	})
	knowsToo := newStore(knows.client, Config{}, &revokedRuns{}, Bounds{}, quiet)
	late := newStore(knows.client, Config{}, &revokedRuns{}, Bounds{}, quiet)
	serve(t, knows, knowsToo, late)
	names := make([]string, 12)
	var run string
	for i := range names {
		a := ensure(t, knows, spec(fmt.Sprintf("%x", i)))
		approveAs(t, knows, a.Name, "alice", v1alpha1.VerdictApprove)
		names[i], run = a.Name, a.Spec.Agent.Run
	}
	for _, name := range names { // so that ends are the only writes to come
		eventually(t, "phase", func() bool { return phaseOf(knows, name) == v1alpha1.PhaseApproved })
		eventually(t, "condition", func() bool { return conditionsOf(find(t, knows, name)).approved == metav1.ConditionTrue })
	}
	var group sync.WaitGroup
	runs := map[string]string{run: "it went astray"}
	group.Go(func() { revoked(knows).set(runs, nil) })
	group.Go(func() { revoked(knowsToo).set(runs, nil) })
	for i, name := range names {
		group.Go(func() {
			if _, err := late.Use(t.Context(), name, v1alpha1.Try{RequestUID: fmt.Sprint(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, name := range names {
		eventually(t, "end", func() bool { return Final(phaseOf(knows, name)) })
		a := find(t, knows, name)
		if (a.Status.Use != nil) == (a.Status.Cancelled != nil) {
			t.Errorf("%s: use %v, cancelled %v", name, a.Status.Use, a.Status.Cancelled)
		}
		mu.Lock()
		if ends[name] != 1 {
			t.Errorf("%s was ended %d times", name, ends[name])
		}
		mu.Unlock()
	}
}

func TestCancelledAmongTheOtherEnds(t *testing.T) {
	t.Parallel()
	cancel := func(a *v1alpha1.Approval) {
		a.Status.Cancelled = &v1alpha1.Cancellation{At: metav1.NewTime(noon.Add(-time.Minute)), Reason: "r"}
	}
	for _, tc := range []struct {
		name   string
		change func(*v1alpha1.Approval)
		now    time.Time
		want   v1alpha1.Phase
	}{
		{"pending when it was cancelled", func(*v1alpha1.Approval) {}, noon, v1alpha1.PhaseCancelled},
		{"approved", decide(decision("alice", v1alpha1.VerdictApprove)), noon, v1alpha1.PhaseCancelled},
		{"denied", decide(decision("alice", v1alpha1.VerdictDeny)), noon, v1alpha1.PhaseDenied},
		{"used", func(a *v1alpha1.Approval) { a.Status.Use = &v1alpha1.Use{RequestUID: "1"} }, noon, v1alpha1.PhaseUsed},
		{"past its expiry", func(*v1alpha1.Approval) {}, noon.Add(1000 * time.Hour), v1alpha1.PhaseCancelled},
	} {
		a := pending()
		cancel(a)
		tc.change(a)
		if got := State(a, tc.now); got != tc.want || !Final(got) {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	a := pending()
	cancel(a)
	if got := finishedAt(a); !got.Equal(noon.Add(-time.Minute)) {
		t.Errorf("it is kept from %s on", got)
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	s := world(t, "alice", interceptor.Funcs{})
	type spec = v1alpha1.RevocationSpec
	later := metav1.NewTime(time.Now().Add(time.Hour).Add(123 * time.Millisecond))
	past := metav1.NewTime(time.Now().Add(-time.Second))
	names := map[string]string{}
	for _, tc := range []struct {
		name string
		spec spec
		who  string
	}{
		{"run", spec{Run: "7"}, `run "7"`},
		{"run of one issuer", spec{Run: "7", Issuer: "ci"}, `run "7", issuer "ci"`},
		{"issuer of that name", spec{Issuer: "7"}, `issuer "7"`},
		{"subject", spec{Subject: "7"}, `subject "7"`},
		{"agent", spec{Agent: "7"}, `agent "7"`},
		{"owner", spec{Owner: "7"}, `owner "7"`},
		{"credential", spec{CredentialID: "7"}, `credential "7"`},
		{"run for a time", spec{Run: "7", Until: &later}, `run "7"`},
		{"a run that looks like two selectors", spec{Run: "7\"\nissuer \"ci"}, `run "7\"\nissuer \"ci"`},
	} {
		tc.spec.Reason = "first"
		r, err := Revoke(t.Context(), s.client, tc.spec)
		if err != nil || r.Spec.Reason != "first" || Who(r.Spec) != tc.who {
			t.Errorf("%s: %+v %v", tc.name, r, err)
			continue
		}
		if other, taken := names[r.Name]; taken {
			t.Errorf("%s has the name of %s", tc.name, other)
		}
		names[r.Name] = tc.name
		tc.spec.Reason = "second"
		if again, err := Revoke(t.Context(), s.client, tc.spec); err != nil || again.Name != r.Name || again.Spec.Reason != "first" {
			t.Errorf("%s, twice: %+v %v", tc.name, again, err)
		}
	}
	stranger := &v1alpha1.Revocation{
		ObjectMeta: metav1.ObjectMeta{Name: revocationName(spec{Run: "8"})}, Spec: spec{Run: "nobody's", Reason: "r"},
	}
	if err := s.client.Create(t.Context(), stranger); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		spec spec
		want string
	}{
		{"nobody", spec{Reason: "r"}, "names somebody"},
		{"no reason", spec{Run: "9", Reason: " "}, "needs a reason"},
		{"over already", spec{Run: "9", Reason: "r", Until: &past}, "is over already"},
		{"a name that another has taken", spec{Run: "8", Reason: "r"}, `names others (run "nobody's"): nobody is revoked`},
	} {
		if r, err := Revoke(t.Context(), s.client, tc.spec); err == nil || !strings.Contains(err.Error(), tc.want) || r != nil {
			t.Errorf("%s: %v %v", tc.name, r, err)
		}
	}
	list, err := ListRevocations(t.Context(), s.client)
	if err != nil || len(list.Items) != len(names)+1 || list.Items[0].Kind != "Revocation" {
		t.Fatalf("%v %v", list, err)
	}
	list.Items[0].Spec.Reason = "\x1b[2Jgone"
	var table bytes.Buffer
	if err := WriteRevocations(&table, list.Items, later.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"for good", later.UTC().Format(time.RFC3339) + " (ended)", `run "7", issuer "ci"`} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("%q is missing:\n%s", want, &table)
		}
	}
	if strings.Contains(table.String(), "\x1b") {
		t.Error("a control character reaches the terminal")
	}
}

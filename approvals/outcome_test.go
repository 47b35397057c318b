package approvals

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// TestAnOutcomeReopensItsOwnUseOnly: what the audit log tells of one use says
// nothing of the next.
func TestAnOutcomeReopensItsOwnUseOnly(t *testing.T) {
	t.Parallel()
	s := world(t, "tipstaff", interceptor.Funcs{})
	a := ensure(t, s, spec("a"))
	approveAs(t, s, a.Name, "alice", v1alpha1.VerdictApprove)
	through := func(uid string) bool {
		t.Helper()
		got, err := s.Use(t.Context(), a.Name, v1alpha1.Try{RequestUID: uid})
		if err != nil {
			t.Fatal(err)
		}
		return got.Status.Use.RequestUID == uid
	}
	tell := func(uid string, code int32) {
		t.Helper()
		if err := s.Outcome(t.Context(), a.Name, uid, code, "quota"); err != nil {
			t.Fatal(err)
		}
	}
	if !through("1") || through("2") {
		t.Fatal("not exactly the first goes through")
	}
	tell("0", 403)
	if through("3") {
		t.Error("another use's outcome reopened it")
	}
	tell("1", 403)
	if !through("4") || through("5") {
		t.Error("after a refusal not exactly one goes through")
	}
	tell("1", 403)
	if through("6") {
		t.Error("an outcome told twice reopened the next use")
	}
	tell("4", 201)
	tell("4", 403)
	if through("7") {
		t.Error("what was carried out is reopened by a second word")
	}
	got, err := Find(t.Context(), s.client, a.Name)
	if err != nil || got.Status.Use.Outcome == nil || got.Status.Use.Outcome.Code != 201 || got.Status.Use.Tries != 1 {
		t.Errorf("use is %+v, %v", got.Status.Use, err)
	}
	if err := s.Outcome(t.Context(), "nothing", "1", 403, ""); err != nil {
		t.Errorf("an approval that is gone: %v", err)
	}
}

func TestReportsAreBoundedAndWritten(t *testing.T) {
	t.Parallel()
	var failed atomic.Bool
	s := world(t, "tipstaff", interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			if key.Name == "fails" && !failed.Swap(true) {
				return errors.New("away")
			}
			return c.Get(ctx, key, obj, opts...)
		},
	})
	a := ensure(t, s, spec("a"))
	approveAs(t, s, a.Name, "alice", v1alpha1.VerdictApprove)
	if _, err := s.Use(t.Context(), a.Name, v1alpha1.Try{RequestUID: "1"}); err != nil {
		t.Fatal(err)
	}
	if !s.Report("fails", "1", 403, "") || !s.Report(a.Name, "1", 403, "quota") {
		t.Fatal("an empty queue takes nothing")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.RunReports(ctx) }()
	eventually(t, "outcome", func() bool {
		got, err := Find(ctx, s.client, a.Name)
		return err == nil && got.Status.Use.Outcome != nil && got.Status.Use.Outcome.Message == "quota"
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	taken := 0
	for s.Report(a.Name, "1", 403, "") {
		if taken++; taken > maxReports {
			t.Fatal("the queue has no bound")
		}
	}
	if taken != maxReports {
		t.Errorf("the queue took %d", taken)
	}
}

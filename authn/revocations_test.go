package authn

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

func revocation(name, run, issuer, reason string) *v1alpha1.Revocation {
	return &v1alpha1.Revocation{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Revocation"},
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u", ResourceVersion: "5"},
		Spec:       v1alpha1.RevocationSpec{Run: run, Issuer: issuer, Reason: reason},
	}
}

func TestI9_TheStoreKnowsEachRevocation(t *testing.T) {
	t.Parallel()
	var s revocationStore
	agent := v1alpha1.Agent{Issuer: "ci", Run: "run-1"}
	step := func(name string, err error, wantReason string, wantErr error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		reason, revoked, err := s.revoked(agent)
		if reason != wantReason || revoked != (wantReason != "") || !errors.Is(err, wantErr) {
			t.Errorf("%s: got %q %t %v", name, reason, revoked, err)
		}
	}
	step("before the first list it isn't known", nil, "", ErrNotSynced)
	step("an event before the list doesn't make it known", s.Add(revocation("x", "run-9", "", "r")), "", ErrNotSynced)
	step("an empty list revokes nobody", s.Replace(nil, "1"), "", nil)
	step("another run's doesn't count", s.Add(revocation("a", "run-2", "", "other")), "", nil)
	step("another issuer's doesn't count", s.Add(revocation("b", "run-1", "gitlab", "other")), "", nil)
	step("the run's own counts", s.Add(revocation("d", "run-1", "ci", "compromised")), "compromised", nil)
	step("of two the first by name speaks", s.Add(revocation("c", "run-1", "", "leaked")), "leaked", nil)
	step("an update that moves it moves it", s.Update(revocation("c", "run-3", "", "leaked")), "compromised", nil)
	step("a deleted one ends", s.Delete(revocation("d", "run-1", "ci", "compromised")), "", nil)
	step("a list replaces all", s.Replace([]any{revocation("e", "run-1", "", "again")}, "2"), "again", nil)
	step("an empty list ends all", s.Replace([]any{}, "3"), "", nil)
	if err := s.Add("no revocation"); err == nil {
		t.Error("a stranger is taken")
	}
}

// TestI9_RevocationsWaitForTheCRDAndFollowTheWatch has an API server that knows
// no revocations at first: the CRD comes later. The real one is in e2e.
func TestI9_RevocationsWaitForTheCRDAndFollowTheWatch(t *testing.T) {
	t.Parallel()
	var installed atomic.Bool
	refused := make(chan struct{}, 100)
	events := make(chan metav1.WatchEvent)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path != "/apis/tipstaff.dev/v1alpha1/revocations" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		if !installed.Load() {
			select {
			case refused <- struct{}{}:
			default:
			}
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: metav1.StatusReasonNotFound, Code: 404})
			return
		}
		first := revocation("first", "run-1", "", "compromised")
		if r.URL.Query().Get("watch") == "" {
			_ = json.NewEncoder(w).Encode(v1alpha1.RevocationList{
				TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "RevocationList"},
				ListMeta: metav1.ListMeta{ResourceVersion: "5"}, Items: []v1alpha1.Revocation{*first},
			})
			return
		}
		send := func(kind string, rev *v1alpha1.Revocation) {
			b, err := json.Marshal(rev)
			if err != nil {
				t.Error(err)
			}
			ev := metav1.WatchEvent{Type: kind}
			ev.Object.Raw = b
			_ = json.NewEncoder(w).Encode(ev)
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
		}
		if r.URL.Query().Get("sendInitialEvents") == "true" {
			send("ADDED", first)
			end := revocation("", "", "", "")
			end.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
			send("BOOKMARK", end)
		}
		for {
			select {
			case ev := <-events:
				send(ev.Type, ev.Object.Object.(*v1alpha1.Revocation))
			case <-r.Context().Done():
				return
			}
		}
	}))
	t.Cleanup(api.Close)
	revs, err := NewRevocations(&rest.Config{Host: api.URL}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- revs.Run(t.Context()) }()
	t.Cleanup(func() { // after the context has ended, before the server closes
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-refused
	<-refused // it tries again
	if _, _, err := revs.Revoked(v1alpha1.Agent{Run: "run-1"}); !errors.Is(err, ErrNotSynced) || revs.HasSynced() {
		t.Errorf("without the CRD: %v", err)
	}
	installed.Store(true)
	until := func(run, want string) {
		t.Helper()
		var reason string
		var err error
		if wait.PollUntilContextTimeout(t.Context(), 2*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) {
			reason, _, err = revs.Revoked(v1alpha1.Agent{Run: run})
			return err == nil && reason == want, nil
		}) != nil {
			t.Fatalf("run %s: got %q %v, want %q", run, reason, err, want)
		}
	}
	until("run-1", "compromised")
	if !revs.HasSynced() {
		t.Error("not synced")
	}
	ev := metav1.WatchEvent{Type: "ADDED"}
	ev.Object.Object = revocation("second", "run-2", "", "leaked")
	events <- ev
	until("run-2", "leaked")
	ev.Type = "DELETED"
	events <- ev
	until("run-2", "")
}

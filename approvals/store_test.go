package approvals

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// world is a store whose caller is tipstaff, and the client that people use on the same objects.
func world(t testing.TB, caller string, funcs interceptor.Funcs) *Store {
	t.Helper()
	s, err := scheme()
	if err != nil {
		t.Fatal(err)
	}
	create := funcs.Create
	funcs.Create = func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
		if r, ok := obj.(*authenticationv1.SelfSubjectReview); ok {
			r.Status.UserInfo.Username = caller
			return nil
		}
		if create != nil {
			return create(ctx, c, obj, opts...)
		}
		obj.SetCreationTimestamp(metav1.Now())
		return c.Create(ctx, obj, opts...)
	}
	c := fake.NewClientBuilder().WithScheme(s).WithRESTMapper(mapper()).WithStatusSubresource(&v1alpha1.Approval{}).WithInterceptorFuncs(funcs).Build()
	st := newStore(plainWatch{c}, Config{}, &revokedRuns{}, Bounds{}, quiet)
	self := "tipstaff"
	st.self.Store(&self)
	st.synced.Store(true)
	return st
}

// revokedRuns are revoked, each for its reason; err says that nobody knows.
type revokedRuns struct {
	mu   sync.Mutex
	runs map[string]string
	err  error
	subs map[int]func()
}

func (r *revokedRuns) Revoked(a v1alpha1.Agent) (string, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	reason, revoked := r.runs[a.Run]
	return reason, revoked && r.err == nil, r.err
}

func (r *revokedRuns) Subscribe(f func()) (cancel func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := len(r.subs)
	if r.subs == nil {
		r.subs = map[int]func(){}
	}
	r.subs[id] = f
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.subs[id] = func() {}
	}
}

// set puts the runs in force, and tells whoever subscribed.
func (r *revokedRuns) set(runs map[string]string, err error) {
	r.mu.Lock()
	r.runs, r.err = runs, err
	subs := slices.Collect(maps.Values(r.subs))
	r.mu.Unlock()
	for _, f := range subs {
		f()
	}
}

// revoked is what s asks.
func revoked(s *Store) *revokedRuns { return s.revoked.(*revokedRuns) }

// plainWatch tells the informer that the fake client streams no initial list.
type plainWatch struct{ client.WithWatch }

func (plainWatch) IsWatchListSemanticsUnSupported() bool { return true }

func spec(fp string) v1alpha1.ApprovalSpec {
	sp := pending().Spec
	sp.Fingerprint = v1alpha1.Fingerprint(strings.Repeat(fp, 64)[:64])
	sp.ExpiresAt = metav1.NewTime(time.Now().Add(time.Hour).Truncate(time.Second))
	return sp
}

func approveAs(t testing.TB, s *Store, name, by string, v v1alpha1.Verdict) {
	t.Helper()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		var a v1alpha1.Approval
		if err := s.client.Get(t.Context(), client.ObjectKey{Name: name}, &a); err != nil {
			return err
		}
		a.Status.Decisions = append(a.Status.Decisions, v1alpha1.Decision{By: by, Verdict: v, Reason: "r", At: metav1.Now(), Via: "kubectl"})
		return s.client.Status().Update(t.Context(), &a)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func ensure(t testing.TB, s *Store, sp v1alpha1.ApprovalSpec) *v1alpha1.Approval {
	t.Helper()
	a, err := s.Ensure(t.Context(), sp, v1alpha1.Try{}, noShow)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestI3_OneOfTwoHundredGoesThrough(t *testing.T) {
	t.Parallel()
	s := world(t, "tipstaff", interceptor.Funcs{})
	a := ensure(t, s, spec("a"))
	approveAs(t, s, a.Name, "alice", v1alpha1.VerdictApprove)
	var through, refused atomic.Int32
	var group sync.WaitGroup
	for i := range 200 {
		group.Go(func() {
			uid := fmt.Sprint("uid-", i)
			got, err := s.Use(t.Context(), a.Name, v1alpha1.Try{RequestUID: uid})
			if err != nil {
				refused.Add(1)
				return
			}
			if got.Status.Use != nil && got.Status.Use.RequestUID == uid {
				through.Add(1)
			} else if got.Status.Phase == v1alpha1.PhaseUsed {
				refused.Add(1)
			}
		})
	}
	group.Wait()
	if through.Load() != 1 || refused.Load() != 199 {
		t.Errorf("%d went through, %d were refused", through.Load(), refused.Load())
	}
}

func TestEnsureConvergesOnOne(t *testing.T) {
	t.Parallel()
	s := world(t, "tipstaff", interceptor.Funcs{})
	names := make([]string, 50)
	var group sync.WaitGroup
	for i := range names {
		group.Go(func() {
			if a, err := s.Ensure(t.Context(), spec("a"), v1alpha1.Try{}, noShow); err == nil {
				names[i] = a.Name
			}
		})
	}
	group.Wait()
	for _, n := range names {
		if n == "" || n != names[0] {
			t.Fatalf("names %v", names)
		}
	}
	if a := ensure(t, s, spec("b")); a.Name == names[0] {
		t.Error("another fingerprint got the same approval")
	}
}

func TestEnsureAcrossALife(t *testing.T) {
	t.Parallel()
	s := world(t, "tipstaff", interceptor.Funcs{})
	first := ensure(t, s, spec("a"))
	if first.Status.Phase != v1alpha1.PhasePending {
		t.Errorf("opened as %s", first.Status.Phase)
	}
	approveAs(t, s, first.Name, "alice", v1alpha1.VerdictApprove)
	if again := ensure(t, s, spec("a")); again.Name != first.Name || again.Status.Phase != v1alpha1.PhaseApproved {
		t.Errorf("an approved one does not answer: %s %s", again.Name, again.Status.Phase)
	}
	if _, err := s.Use(t.Context(), first.Name, v1alpha1.Try{RequestUID: "1"}); err != nil {
		t.Fatal(err)
	}
	second := ensure(t, s, spec("a"))
	if second.Name == first.Name || second.Status.Phase != v1alpha1.PhasePending {
		t.Errorf("after its use: %s %s", second.Name, second.Status.Phase)
	}
	approveAs(t, s, second.Name, "alice", v1alpha1.VerdictDeny)
	if again := ensure(t, s, spec("a")); again.Name != second.Name || again.Status.Phase != v1alpha1.PhaseDenied {
		t.Errorf("a denial does not stay the answer: %s %s", again.Name, again.Status.Phase)
	}
	terms := spec("a")
	terms.Approvers = []string{"security"}
	if other := ensure(t, s, terms); other.Name == second.Name || other.Status.Phase != v1alpha1.PhasePending {
		t.Error("changed terms are answered under the old ones")
	}
	s.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	if third := ensure(t, s, spec("a")); third.Name == second.Name {
		t.Error("a denial outlives its expiry")
	}
}

func TestI4_StoreThatCannotKnowSaysSo(t *testing.T) {
	t.Parallel()
	away := errors.New("connection refused")
	s := world(t, "tipstaff", interceptor.Funcs{
		List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error { return away },
		Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
			return away
		},
	})
	if _, err := s.Ensure(t.Context(), spec("a"), v1alpha1.Try{}, noShow); !errors.Is(err, away) {
		t.Errorf("Ensure: %v", err)
	}
	if _, err := s.Wait(t.Context(), "x"); !errors.Is(err, away) {
		t.Errorf("Wait: %v", err)
	}
	if _, err := s.Use(t.Context(), "x", v1alpha1.Try{RequestUID: "1"}); !errors.Is(err, away) {
		t.Errorf("Use: %v", err)
	}
	s.synced.Store(false)
	if _, err := s.Ensure(t.Context(), spec("a"), v1alpha1.Try{}, noShow); !errors.Is(err, ErrNotReady) {
		t.Errorf("Ensure before the first list: %v", err)
	}
}

func TestRunWakesWaitersAndKeepsPhases(t *testing.T) {
	t.Parallel()
	s := world(t, "tipstaff", interceptor.Funcs{})
	s.synced.Store(false)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	eventually(t, "sync", s.HasSynced)
	a := ensure(t, s, spec("a"))
	got := make(chan *v1alpha1.Approval)
	go func() {
		a, err := s.Wait(ctx, a.Name)
		if err != nil {
			t.Error(err)
		}
		got <- a
	}()
	eventually(t, "phase", func() bool { return phaseOf(s, a.Name) == v1alpha1.PhasePending })
	approveAs(t, s, a.Name, "alice", v1alpha1.VerdictApprove)
	if w := <-got; w.Status.Phase != v1alpha1.PhaseApproved {
		t.Errorf("woken with %s", w.Status.Phase)
	}
	eventually(t, "phase", func() bool { return phaseOf(s, a.Name) == v1alpha1.PhaseApproved })
}

// phaseOf is the phase that stands in the API server.
func phaseOf(s *Store, name string) v1alpha1.Phase {
	var a v1alpha1.Approval
	if err := s.client.Get(context.Background(), client.ObjectKey{Name: name}, &a); err != nil {
		return ""
	}
	return a.Status.Phase
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); <-tick.C {
		if ok() {
			return
		}
	}
	t.Fatalf("no %s in 20 s", what)
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := world(t, "tipstaff", interceptor.Funcs{})
	a := ensure(t, s, spec("a"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if got, err := s.Wait(ctx, a.Name); err != nil || got.Status.Phase != v1alpha1.PhasePending {
		t.Errorf("got %v, %v", got, err)
	}
	if len(s.waiters) != 0 {
		t.Error("a waiter is left behind")
	}
}

func TestReconcile(t *testing.T) {
	t.Parallel()
	s := world(t, "tipstaff", interceptor.Funcs{})
	a := ensure(t, s, spec("a"))
	s.now = func() time.Time { return a.Spec.ExpiresAt.Time }
	read := func() *v1alpha1.Approval {
		got, err := Find(t.Context(), s.client, a.Name)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if again, err := s.reconcile(t.Context(), read()); err != nil || again < maxUndecided {
		t.Errorf("at its expiry: again in %s, %v", again, err)
	}
	if got := phaseOf(s, a.Name); got != v1alpha1.PhaseExpired {
		t.Errorf("phase %s", got)
	}
	s.now = func() time.Time { return a.Spec.ExpiresAt.Add(DefaultRetention) }
	if _, err := s.reconcile(t.Context(), read()); err != nil {
		t.Error(err)
	}
	if _, err := Find(t.Context(), s.client, a.Name); !errors.Is(err, ErrNotFound) {
		t.Errorf("after the retention: %v", err)
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	forbidden := false
	s := world(t, "alice", interceptor.Funcs{
		SubResourceUpdate: func(ctx context.Context, c client.Client, sub string, obj client.Object, opts ...client.SubResourceUpdateOption) error {
			if forbidden {
				return apierrors.NewForbidden(schema.GroupResource{Group: v1alpha1.Group, Resource: "approvals"}, obj.GetName(), errors.New("none of the approver groups"))
			}
			return c.SubResource(sub).Update(ctx, obj, opts...)
		},
	})
	a := ensure(t, s, spec("a"))
	if _, err := Decide(t.Context(), s.client, "nothing", Decision{Verdict: v1alpha1.VerdictApprove, Reason: "", Via: "kubectl"}, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such approval: %v", err)
	}
	if _, err := Decide(t.Context(), s.client, a.Name, Decision{Verdict: v1alpha1.VerdictDeny, Reason: "", Via: "kubectl"}, nil); err == nil || !strings.Contains(err.Error(), "needs a reason") {
		t.Errorf("a denial without a reason: %v", err)
	}
	forbidden = true
	if _, err := Decide(t.Context(), s.client, a.Name, Decision{Verdict: v1alpha1.VerdictApprove, Reason: "", Via: "kubectl"}, nil); !errors.Is(err, ErrForbidden) {
		t.Errorf("not allowed: %v", err)
	}
	forbidden = false
	got, err := Decide(t.Context(), s.client, a.Name, Decision{Verdict: v1alpha1.VerdictApprove, Reason: "", Via: "kubectl"}, nil)
	if err != nil || got.Status.Phase != v1alpha1.PhaseApproved || got.Status.Decisions[0].By != "alice" {
		t.Fatalf("got %+v, %v", got, err)
	}
	if _, err := Decide(t.Context(), s.client, a.Name, Decision{Verdict: v1alpha1.VerdictApprove, Reason: "", Via: "kubectl"}, nil); !errors.Is(err, ErrVoted) {
		t.Errorf("twice: %v", err)
	}
	var table bytes.Buffer
	list, err := List(t.Context(), s.client)
	if err != nil {
		t.Fatal(err)
	}
	list.Items[0].Spec.Action = "delete \x1b[2Jnamespace"
	if err := WriteTable(&table, list.Items); err != nil || strings.Contains(table.String(), "\x1b") || !strings.Contains(table.String(), "Approved") {
		t.Errorf("table %q, %v", table.String(), err)
	}
}

// anybodyMay stands for RBAC that gives everybody the verb "approve".
func anybodyMay(context.Context, authenticationv1.UserInfo, string) (bool, error) { return true, nil }

func TestI2_ADecisionNeedsTheVerbApprove(t *testing.T) {
	t.Parallel()
	allowed, broken := false, error(nil)
	var asked authorizationv1.SubjectAccessReviewSpec
	s := world(t, "tipstaff", interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
		if r, ok := obj.(*authorizationv1.SubjectAccessReview); ok {
			asked, r.Status.Allowed = r.Spec, allowed
			return broken
		}
		return c.Create(ctx, obj, opts...)
	}})
	review := func(new *v1alpha1.Approval) *admissionv1.AdmissionResponse {
		raw := func(a *v1alpha1.Approval) (ext apiruntime.RawExtension) {
			b, err := json.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			ext.Raw = b
			return ext
		}
		u := person("alice", "sre-oncall")
		u.Extra = map[string]authenticationv1.ExtraValue{"k": {"v"}}
		g := s.Guard()
		body, err := json.Marshal(admissionv1.AdmissionReview{
			TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
			Request: &admissionv1.AdmissionRequest{
				UID: "1", Operation: admissionv1.Update, UserInfo: u, SubResource: "status",
				Resource: metav1.GroupVersionResource{Group: v1alpha1.Group, Version: "v1alpha1", Resource: "approvals"},
				Object:   raw(new), OldObject: raw(atNow(pending())),
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		rec := httptest.NewRecorder()
		g.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/guard", bytes.NewReader(body)))
		var out admissionv1.AdmissionReview
		if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil || out.Response == nil {
			t.Fatalf("answer %q: %v", rec.Body, err)
		}
		return out.Response
	}
	approved := atNow(pending())
	d := decision("alice", v1alpha1.VerdictApprove)
	d.At = metav1.Now()
	decide(d)(approved)

	if r := review(approved); r.Allowed || !strings.Contains(r.Result.Message, `lacks the verb "approve"`) {
		t.Errorf("without the verb: %+v", r)
	}
	if a := asked.ResourceAttributes; a == nil || a.Verb != "approve" || a.Resource != "approvals" || a.Name != "a1" || asked.User != "alice" || !slices.Contains(asked.Groups, "sre-oncall") || len(asked.Extra["k"]) != 1 {
		t.Errorf("asked %+v", asked)
	}
	allowed = true
	if r := review(approved); !r.Allowed {
		t.Errorf("with the verb: %+v", r.Result)
	}
	broken = errors.New("away")
	if r := review(approved); r.Allowed || r.Result.Code != http.StatusInternalServerError {
		t.Errorf("where nobody can say: %+v", r)
	}
}

// atNow is a, open for an hour from now.
func atNow(a *v1alpha1.Approval) *v1alpha1.Approval {
	a.Spec.ExpiresAt = metav1.NewTime(time.Now().Add(time.Hour).Truncate(time.Second))
	return a
}

// Every replica reconciles; what became of an approval is told and counted once.
func TestConditionsFollowAndAreToldOnce(t *testing.T) {
	t.Parallel()
	s := world(t, "tipstaff", interceptor.Funcs{})
	told := make(chan string, 20)
	s.events = recorder(told)
	sp := spec("b")
	sp.Quorum, sp.BreakGlass = 2, []string{"captains"}
	a := ensure(t, s, sp)
	step := func(doing, approved, used string, want ...string) {
		t.Helper()
		for range 3 { // two replicas, and one that comes late with an old copy
			got, err := Find(t.Context(), s.client, a.Name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.reconcile(t.Context(), got); err != nil {
				t.Fatal(err)
			}
		}
		got, err := Find(t.Context(), s.client, a.Name)
		if err != nil {
			t.Fatal(err)
		}
		if st := conditionsOf(got); string(st.approved) != approved || string(st.used) != used {
			t.Errorf("%s: conditions %+v", doing, got.Status.Conditions)
		}
		for _, w := range want {
			select {
			case e := <-told:
				if e != w {
					t.Errorf("%s: told %q, want %q", doing, e, w)
				}
			default:
				t.Errorf("%s: %q is not told", doing, w)
			}
		}
		select {
		case e := <-told:
			t.Errorf("%s: also told %q", doing, e)
		default:
		}
	}
	step("opened", "Unknown", "False", "Normal Opened")
	step("seen again", "Unknown", "False")
	approveAs(t, s, a.Name, "alice", v1alpha1.VerdictApprove)
	step("one of two", "Unknown", "False")
	var got v1alpha1.Approval
	if err := s.client.Get(t.Context(), client.ObjectKey{Name: a.Name}, &got); err != nil {
		t.Fatal(err)
	}
	got.Status.Decisions = append(got.Status.Decisions, v1alpha1.Decision{By: "carl", Verdict: v1alpha1.VerdictApprove, Reason: "site down", At: metav1.Now(), Via: "kubectl", BreakGlass: true})
	if err := s.client.Status().Update(t.Context(), &got); err != nil {
		t.Fatal(err)
	}
	step("glass broken", "True", "False", "Warning BreakGlass")
	used := func(o *v1alpha1.Outcome) {
		t.Helper()
		if err := s.client.Get(t.Context(), client.ObjectKey{Name: a.Name}, &got); err != nil {
			t.Fatal(err)
		}
		got.Status.Use = &v1alpha1.Use{RequestUID: "1", At: metav1.Now(), Outcome: o}
		if err := s.client.Status().Update(t.Context(), &got); err != nil {
			t.Fatal(err)
		}
	}
	used(nil)
	step("used", "True", "True", "Normal Used")
	used(&v1alpha1.Outcome{Code: 409, At: metav1.Now()})
	step("refused by the API server", "True", "True", "Warning RefusedLater")
	used(nil)
	step("used again", "True", "True")
	used(&v1alpha1.Outcome{Code: 500, At: metav1.Now()})
	step("answered with an error", "True", "True", "Warning AnsweredWithError")
	used(&v1alpha1.Outcome{Code: 200, At: metav1.Now()})
	step("done", "True", "True")
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(s.metrics.broken)
	families, err := reg.Gather()
	if err != nil || len(families) != 1 || families[0].GetMetric()[0].GetCounter().GetValue() != 1 {
		t.Errorf("broken glass is counted as %v, %v", families, err)
	}
}

// recorder gives each event's type and reason to told.
type recorder chan string

func (r recorder) Eventf(_, _ apiruntime.Object, kind, reason, _, _ string, _ ...any) {
	r <- kind + " " + reason
}

func (r recorder) WithLogger(klog.Logger) events.EventRecorderLogger { return r }

func FuzzGuard(f *testing.F) {
	g := &guard{mayApprove: anybodyMay, self: func() string { return "tipstaff" }, now: func() time.Time { return noon }, log: quiet}
	was, is := pending(), pending()
	decide(decision("alice", v1alpha1.VerdictApprove))(is)
	raw := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	req := &admissionv1.AdmissionRequest{
		UID: "1", Operation: admissionv1.Update, Resource: metav1.GroupVersionResource{Group: v1alpha1.Group, Version: "v1alpha1", Resource: "approvals"},
		SubResource: "status", UserInfo: person("alice", "sre-oncall"),
	}
	req.Object.Raw, req.OldObject.Raw = raw(is), raw(was)
	body := func() []byte {
		return raw(admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: req})
	}
	approver := body()
	f.Add(approver)
	req.UserInfo = person("agent:ci:bot", v1alpha1.GroupAgents)
	f.Add(body())
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec := httptest.NewRecorder()
		g.handler().ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "POST", "/guard", bytes.NewReader(b)))
		if rec.Code != 200 {
			return
		}
		var in, out admissionv1.AdmissionReview
		if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil || out.Response == nil {
			t.Fatalf("answer %q: %v", rec.Body, err)
		}
		if json.Unmarshal(b, &in) == nil && out.Response.Allowed && v1alpha1.IsAgent(in.Request.UserInfo.Groups) {
			t.Fatal("an agent got through")
		}
		if bytes.Equal(b, approver) && !out.Response.Allowed {
			t.Fatalf("an approver's decision is refused: %s", out.Response.Result.Message)
		}
	})
}

// noShow fills in nothing.
func noShow(*v1alpha1.ApprovalSpec) error { return nil }

package authn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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

// storeAt is a store that has just heard of the API server, at a time that the
// test moves.
func storeAt(now *time.Time) *revocationStore {
	return &revocationStore{now: func() time.Time { return *now }, changed: func() {}, heard: *now}
}

func TestI9_TheStoreKnowsEachRevocation(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := storeAt(&now)
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
	now = now.Add(maxSilence)
	step("what was heard holds as long as it may", nil, "", nil)
	now = now.Add(time.Second)
	step("past that nobody can say", nil, "", ErrStale)
	step("but who is known to be revoked stays so", s.Add(revocation("f", "run-1", "", "for good")), "for good", nil)
	s.heardNow()
	step("heard again, it is known again", s.Delete(revocation("f", "run-1", "", "for good")), "", nil)
}

func TestI9_EverySelectorNamesSomebody(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	until := func(d time.Duration) *metav1.Time {
		at := metav1.NewTime(noon.Add(d))
		return &at
	}
	bot := v1alpha1.Agent{User: "agent:ci:repo:acme/shop", Issuer: "ci", Run: "7", Owner: "ann", CredentialID: "JTI=x"}
	pod := v1alpha1.Agent{User: "system:serviceaccount:agents:coder", Issuer: v1alpha1.IssuerKubernetes, Run: "uid-1"}
	type spec = v1alpha1.RevocationSpec
	for _, tc := range []struct {
		name     string
		spec     spec
		bot, pod bool
	}{
		{"run", spec{Run: "7"}, true, false},
		{"a pod's run", spec{Run: "uid-1"}, false, true},
		{"issuer", spec{Issuer: "ci"}, true, false},
		{"all service accounts", spec{Issuer: "kubernetes"}, false, true},
		{"subject", spec{Subject: "repo:acme/shop"}, true, false},
		{"a service account's subject is its username", spec{Subject: "system:serviceaccount:agents:coder"}, false, true},
		{"part of a subject", spec{Subject: "acme/shop"}, false, false},
		{"agent", spec{Agent: "agent:ci:repo:acme/shop"}, true, false},
		{"a service account", spec{Agent: "system:serviceaccount:agents:coder"}, false, true},
		{"owner", spec{Owner: "ann"}, true, false},
		{"credential", spec{CredentialID: "JTI=x"}, true, false},
		{"a credential without its JTI=", spec{CredentialID: "x"}, false, false},
		{"two that both match", spec{Run: "7", Owner: "ann"}, true, false},
		{"two of which one matches", spec{Run: "7", Owner: "bob"}, false, false},
		{"one that matches and one that the agent lacks", spec{Run: "uid-1", Owner: "ann"}, false, false},
		{"all six", spec{Run: "7", Issuer: "ci", Subject: "repo:acme/shop", Agent: "agent:ci:repo:acme/shop", Owner: "ann", CredentialID: "JTI=x"}, true, false},
		{"nobody", spec{}, false, false},
		{"until later", spec{Run: "7", Until: until(time.Second)}, true, false},
		{"until now", spec{Run: "7", Until: until(0)}, false, false},
	} {
		now := noon
		s := storeAt(&now)
		tc.spec.Reason = "because"
		if err := s.Replace([]any{&v1alpha1.Revocation{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: tc.spec}}, "1"); err != nil {
			t.Fatal(err)
		}
		for _, who := range []struct {
			a    v1alpha1.Agent
			want bool
		}{{bot, tc.bot}, {pod, tc.pod}, {v1alpha1.Agent{}, false}} {
			reason, revoked, err := s.revoked(who.a)
			if err != nil || revoked != who.want || (reason == "because") != who.want {
				t.Errorf("%s: %q: got %q %t %v", tc.name, who.a.User, reason, revoked, err)
			}
		}
	}
}

func TestI9_ATimeThatIsOverLeavesTheOthers(t *testing.T) {
	t.Parallel()
	now := time.Now()
	s := storeAt(&now)
	short, long := revocation("a", "7", "", "short"), revocation("b", "7", "", "long")
	end := metav1.NewTime(now.Add(time.Second))
	short.Spec.Until = &end
	if err := s.Replace([]any{short, long}, "1"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"short", "long"} {
		if reason, _, err := s.revoked(v1alpha1.Agent{Run: "7"}); reason != want || err != nil {
			t.Errorf("got %q %v, want %q", reason, err, want)
		}
		now = end.Time
	}
	if n := s.inForce(); n != 1 {
		t.Errorf("%d in force", n)
	}
}

// FuzzRevocationIndex: the index finds what asking every revocation finds, after
// any additions and removals.
func FuzzRevocationIndex(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9})
	f.Add([]byte("add, remove and ask \x00\xff\x80\x41"))
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 1000 {
			return
		}
		now := time.Unix(100, 0)
		s := storeAt(&now)
		if err := s.Replace(nil, "1"); err != nil {
			t.Fatal(err)
		}
		all := map[string]*v1alpha1.Revocation{}
		pick := func(b byte, prefix string) string { // one of two values, or none
			return [...]string{"", prefix + "1", prefix + "2", ""}[b&3]
		}
		for len(ops) >= 4 {
			name := string('a' + rune(ops[0]&7))
			issuer := pick(ops[1]>>2, "i")
			agent := pick(ops[2], "s")
			if agent != "" {
				agent = "agent:" + issuer + ":" + agent
			}
			spec := v1alpha1.RevocationSpec{
				Run: pick(ops[1], "r"), Issuer: issuer, Subject: pick(ops[1]>>4, "s"), Agent: agent,
				Owner: pick(ops[2]>>2, "o"), CredentialID: pick(ops[2]>>4, "c"),
			}
			if ops[3]&1 != 0 {
				at := metav1.NewTime(now.Add(time.Duration(int(ops[3]>>1)-64) * time.Second))
				spec.Until = &at
			}
			rev := &v1alpha1.Revocation{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
			var err error
			if ops[0]&8 != 0 {
				err = s.Delete(rev)
				delete(all, name)
			} else {
				err = s.Add(rev)
				all[name] = rev
			}
			if err != nil {
				t.Fatal(err)
			}
			a := v1alpha1.Agent{User: "agent:i1:s" + string('1'+rune(ops[3]&1)), Issuer: pick(ops[0]>>4, "i"), Run: pick(ops[0]>>6, "r"), Owner: pick(ops[3]>>2, "o"), CredentialID: pick(ops[3]>>4, "c")}
			if subjectOf(a) != a.Subject() {
				t.Fatalf("subject of %+v: %q", a, subjectOf(a))
			}
			want := ""
			for n, rev := range all {
				if rev.Revokes(a, now) && (want == "" || n < want) {
					want = n
				}
			}
			got := ""
			if rev := s.index.find(a, now); rev != nil {
				got = rev.Name
			}
			if got != want {
				t.Fatalf("%+v: got %q, want %q of %+v", a, got, want, all)
			}
			ops = ops[4:]
		}
		for name, rev := range all {
			if err := s.Delete(rev); err != nil {
				t.Fatal(name, err)
			}
		}
		if len(s.index.by) != 0 || len(s.index.shapes) != 0 || len(s.index.counts) != 0 {
			t.Errorf("left behind: %+v", s.index)
		}
	})
}

// many is a store with n revocations of every kind, none of them of asks.
func many(tb testing.TB, n int) (s *revocationStore, asks v1alpha1.Agent) {
	tb.Helper()
	now := time.Now()
	s = &revocationStore{now: time.Now, changed: func() {}, heard: now}
	objs := make([]any, n)
	for i := range objs {
		rev := revocation(fmt.Sprint("r", i), fmt.Sprint("run-", i), "ci", "because")
		switch i % 5 {
		case 0:
			rev.Spec.Issuer = ""
		case 1: // one owner's runs, one by one
			rev.Spec.Issuer, rev.Spec.Owner = "", "ann@example.com"
		case 2:
			rev.Spec = v1alpha1.RevocationSpec{CredentialID: fmt.Sprint("JTI=", i), Reason: "because"}
		case 3:
			rev.Spec = v1alpha1.RevocationSpec{Issuer: "ci", Subject: fmt.Sprint("bot-", i), Reason: "because"}
		}
		objs[i] = rev
	}
	if err := s.Replace(objs, "1"); err != nil {
		tb.Fatal(err)
	}
	return s, v1alpha1.Agent{User: "agent:ci:repo:acme/shop:ref:refs/heads/main", Issuer: "ci", Run: "run-x", Owner: "ann@example.com", CredentialID: "JTI=x"}
}

func TestI9_AskingTakesNoMemory(t *testing.T) {
	s, agent := many(t, 1000)
	if n := testing.AllocsPerRun(100, func() {
		if _, revoked, err := s.revoked(agent); revoked || err != nil {
			t.Fatal(revoked, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRevoked(b *testing.B) {
	for _, n := range []int{0, 10, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, agent := many(b, n)
			b.ReportAllocs()
			for b.Loop() {
				if _, revoked, err := s.revoked(agent); revoked || err != nil {
					b.Fatal(revoked, err)
				}
			}
		})
	}
}

func TestSubscribersAreTold(t *testing.T) {
	t.Parallel()
	var s subscribers
	var running, calls atomic.Int32
	begun, free := make(chan struct{}, 100), make(chan struct{})
	cancelSlow := s.add(func() {
		if running.Add(1) != 1 {
			t.Error("called concurrently with itself")
		}
		begun <- struct{}{}
		<-free
		calls.Add(1)
		running.Add(-1)
	})
	quick := make(chan struct{}, 1)
	cancelQuick := s.add(func() { quick <- struct{}{} })
	s.notify()
	<-begun
	<-quick
	for range 3 { // one that is busy holds up nobody
		s.notify()
		<-quick
	}
	close(free)
	<-begun // what came while it was busy is one call more
	cancelSlow()
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls", n)
	}
	s.notify()
	<-quick
	cancelQuick()
	cancelQuick() // twice is no error
	s.notify()
	if len(begun) != 0 || len(quick) != 0 || len(s.wakes) != 0 {
		t.Error("called after it was cancelled")
	}
}

// followed runs revs until the test ends.
func followed(t *testing.T, revs *Revocations) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- revs.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if wait.PollUntilContextTimeout(t.Context(), 2*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) {
		return ok(), nil
	}) != nil {
		t.Fatalf("not in time: %s", what)
	}
}

// TestI9_AWatchThatHangsIsLeftWithItsConnection has an API server whose first
// watch never says a word, as behind a balancer that has lost it.
func TestI9_AWatchThatHangsIsLeftWithItsConnection(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var hung string // the first watch's connection
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.ProtoMajor != 1 {
			t.Errorf("%s shares its connection", r.Proto)
		}
		if r.URL.Query().Get("watch") == "" {
			if r.URL.Query().Get("resourceVersion") != "" {
				t.Errorf("listed from a cache: %s", r.URL.RawQuery)
			}
			_, _ = io.WriteString(w, `{"kind":"RevocationList","apiVersion":"tipstaff.dev/v1alpha1","metadata":{"resourceVersion":"5"},"items":[]}`)
			return
		}
		if r.URL.Query().Get("timeoutSeconds") != "5" {
			t.Errorf("a watch without a bound: %s", r.URL.RawQuery)
		}
		mu.Lock()
		first := hung == ""
		if first {
			hung = r.RemoteAddr
		} else if r.RemoteAddr == hung {
			t.Error("the next watch is on the connection that hung")
		}
		mu.Unlock()
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		if !first {
			b, err := json.Marshal(revocation("r", "run-1", "", "compromised"))
			if err != nil {
				t.Error(err)
			}
			_, _ = fmt.Fprintf(w, "{\"type\":\"ADDED\",\"object\":%s}\n", b)
			_ = http.NewResponseController(w).Flush() // the client may be gone
		}
		<-r.Context().Done()
	}))
	api.EnableHTTP2 = true
	api.StartTLS()
	t.Cleanup(api.Close)
	revs, err := NewRevocations(&rest.Config{Host: api.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	revs.watch.bound = 50 * time.Millisecond
	followed(t, revs)
	within(t, "the revocation that the second watch tells of", func() bool {
		reason, _, _ := revs.Revoked(v1alpha1.Agent{Run: "run-1"})
		return reason == "compromised"
	})
}

// TestI9_SilenceRefuses: an API server that breaks every connection isn't heard,
// though client-go calls that an empty watch; past maxSilence nobody is let in,
// and whoever subscribed is told, then and when it is heard again.
func TestI9_SilenceRefuses(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	var tries atomic.Int32
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() {
			tries.Add(1)
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("watch") == "" {
			_, _ = io.WriteString(w, `{"kind":"RevocationList","apiVersion":"tipstaff.dev/v1alpha1","metadata":{"resourceVersion":"5"},"items":[]}`)
			return
		}
		_ = http.NewResponseController(w).Flush() // the client may be gone
		<-r.Context().Done()
	}))
	t.Cleanup(api.Close)
	revs, err := NewRevocations(&rest.Config{Host: api.URL}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var ahead atomic.Int64
	revs.store.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	revs.watch.bound = 50 * time.Millisecond
	told := make(chan struct{}, 100)
	t.Cleanup(revs.Subscribe(func() { told <- struct{}{} }))
	followed(t, revs)
	<-told
	agent := v1alpha1.Agent{User: "agent:ci:bot", Issuer: "ci", Run: "run-1"}
	if _, revoked, err := revs.Revoked(agent); revoked || err != nil || !revs.HasSynced() {
		t.Fatalf("in step: %t %v", revoked, err)
	}
	broken.Store(true)
	within(t, "some attempts", func() bool { return tries.Load() > 3 })
	ahead.Store(int64(2 * maxSilence))
	if _, _, err := revs.Revoked(agent); !errors.Is(err, ErrStale) || revs.HasSynced() {
		t.Errorf("after a long silence: %v", err)
	}
	for len(told) > 0 { // of lists while it was in step
		<-told
	}
	<-told // of the silence
	broken.Store(false)
	within(t, "that it is known again", func() bool { _, _, err := revs.Revoked(agent); return err == nil })
	<-told
	reg := prometheus.NewPedanticRegistry()
	for _, c := range revs.Collectors() {
		if err := reg.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := reg.Gather(); err != nil || len(got) != 2 || got[0].GetName() != "tipstaff_revocations" {
		t.Errorf("metrics: %v %v", got, err)
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
	followed(t, revs)
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

package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// heldStatus is the webhook's 429.
func heldStatus(reason, approval string, phase v1alpha1.Phase, after int32) string {
	b, err := json.Marshal(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: http.StatusTooManyRequests, Reason: metav1.StatusReasonTooManyRequests, Message: "it is held",
		Details: &metav1.StatusDetails{Name: "one", Kind: "configmaps", RetryAfterSeconds: after, Causes: []metav1.StatusCause{
			{Type: v1alpha1.CauseReason, Message: reason}, {Type: v1alpha1.CauseRule, Message: "a-rule"},
			{Type: v1alpha1.CauseApproval, Message: approval}, {Type: v1alpha1.CauseState, Message: string(phase)},
			{Type: v1alpha1.CauseFinal, Message: "no"},
		}},
	})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func response(code int, body string) *http.Response {
	return &http.Response{
		StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}, "Retry-After": {"2"}},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
}

// server answers one request after another with what is given, the last again and again.
type server struct {
	answers []func() *http.Response
	at      []time.Duration // when each request came
	bodies  []string
	began   time.Time
}

func (s *server) RoundTrip(req *http.Request) (*http.Response, error) {
	body := ""
	if req.Body != nil {
		b, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		body = string(b)
	}
	s.at, s.bodies = append(s.at, time.Since(s.began)), append(s.bodies, body)
	next := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	return next(), nil
}

func pending() *http.Response {
	return response(429, heldStatus("Held", "aa11", v1alpha1.PhasePending, 2))
}

func other() *http.Response {
	return response(429, heldStatus("Held", "bb22", v1alpha1.PhasePending, 2))
}

func approvedSoon() *http.Response {
	return response(429, heldStatus("Held", "aa11", v1alpha1.PhaseApproved, 1))
}

func usedNow() *http.Response {
	return response(429, heldStatus("Held", "aa11", v1alpha1.PhaseUsed, 5))
}

func done() *http.Response   { return response(200, `{"kind":"Done"}`) }
func denied() *http.Response { return response(403, `{"kind":"Denied"}`) }

// people decide after some time.
type people struct {
	after time.Duration
	phase v1alpha1.Phase
	err   error
	began time.Time
	asked []string
}

func (p *people) Decided(ctx context.Context, name string, _ v1alpha1.Agent) (v1alpha1.Phase, error) {
	p.asked = append(p.asked, name)
	if p.err != nil {
		return "", p.err
	}
	if err := pause(ctx, time.Until(p.began.Add(p.after))); err != nil {
		return v1alpha1.PhasePending, nil
	}
	return p.phase, nil
}

func TestAHeldChangeWaits(t *testing.T) {
	t.Parallel()
	const limit = time.Hour
	for _, tc := range []struct {
		name    string
		answers []func() *http.Response
		people  *people // nil: nobody tells
		most    time.Duration
		again   error
		cancel  time.Duration
		full    bool

		code  int
		says  string
		sent  []time.Duration // when, without the spread
		took  time.Duration
		fails bool
	}{
		{name: "until it is approved", answers: []func() *http.Response{pending, done}, people: &people{after: 14 * time.Minute, phase: v1alpha1.PhaseApproved}, code: 200, says: "Done", sent: []time.Duration{0, 14 * time.Minute}},
		{name: "until it is denied", answers: []func() *http.Response{pending, denied}, people: &people{after: time.Minute, phase: v1alpha1.PhaseDenied}, code: 403, says: "Denied", sent: []time.Duration{0, time.Minute}},
		{name: "until its approval ends, and asks nobody anew", answers: []func() *http.Response{pending, done}, people: &people{after: 15 * time.Minute, phase: v1alpha1.PhaseExpired}, code: 403, says: `"message":"Expired"`, sent: []time.Duration{0}, took: 15 * time.Minute},
		{name: "a webhook that has not seen the decision is asked again, later and later", answers: []func() *http.Response{pending, pending, pending, pending, done}, people: &people{after: time.Minute, phase: v1alpha1.PhaseApproved}, code: 200, says: "Done",
			sent: []time.Duration{0, time.Minute, time.Minute + 500*time.Millisecond, time.Minute + 1500*time.Millisecond, time.Minute + 3500*time.Millisecond}},
		{name: "one approved that is to be judged anew comes back when it was told to", answers: []func() *http.Response{pending, approvedSoon, done}, people: &people{after: time.Minute, phase: v1alpha1.PhaseApproved}, code: 200, says: "Done", sent: []time.Duration{0, time.Minute, time.Minute + time.Second}},
		{name: "one whose twin went through comes back when it was told to", answers: []func() *http.Response{usedNow, done}, people: &people{phase: v1alpha1.PhaseUsed}, code: 200, says: "Done", sent: []time.Duration{0, 5 * time.Second}},
		{name: "a new question is waited for too", answers: []func() *http.Response{pending, other, done}, people: &people{after: time.Minute, phase: v1alpha1.PhaseUsed}, code: 200, says: "Done", sent: []time.Duration{0, time.Minute, time.Minute}},
		{name: "as long as the client likes", answers: []func() *http.Response{pending}, people: &people{after: time.Hour, phase: v1alpha1.PhaseApproved}, most: 90 * time.Second, code: 429, says: "it is held", sent: []time.Duration{0}, took: 90 * time.Second},
		{name: "not at all", answers: []func() *http.Response{pending}, people: &people{after: time.Minute}, most: -1, code: 429, says: "it is held", sent: []time.Duration{0}},
		{name: "not past the bounds", answers: []func() *http.Response{pending}, people: &people{after: time.Minute}, full: true, code: 429, says: "it is held", sent: []time.Duration{0}},
		{name: "no longer than its client", answers: []func() *http.Response{pending}, people: &people{after: time.Minute}, cancel: 5 * time.Second, fails: true, sent: []time.Duration{0}, took: 5 * time.Second},
		{name: "not for an approval that nobody knows", answers: []func() *http.Response{pending}, people: &people{err: errors.New("another run's")}, code: 429, says: "it is held", sent: []time.Duration{0}},
		{name: "and is not sent with a token that has ended", answers: []func() *http.Response{pending, done}, people: &people{after: time.Minute, phase: v1alpha1.PhaseApproved}, again: errors.New("the token has expired"), code: 401, says: "the token has expired", sent: []time.Duration{0}, took: time.Minute},
		{name: "no 429 of too many approvals", answers: []func() *http.Response{func() *http.Response { return response(429, heldStatus("TooMany", "aa11", v1alpha1.PhasePending, 60)) }}, people: &people{}, code: 429, says: "TooMany", sent: []time.Duration{0}},
		{name: "no 429 of anybody else's", answers: []func() *http.Response{func() *http.Response { return response(429, `{"kind":"Status","code":429}`) }}, people: &people{}, code: 429, says: `"code":429`, sent: []time.Duration{0}},
		{name: "no success", answers: []func() *http.Response{func() *http.Response { return response(201, heldStatus("Held", "aa11", v1alpha1.PhasePending, 2)) }}, people: &people{}, code: 201, says: "Held", sent: []time.Duration{0}},
		{name: "where nobody tells, by Retry-After", answers: []func() *http.Response{pending, pending, done}, code: 200, says: "Done", sent: []time.Duration{0, 2 * time.Second, 4 * time.Second}},
		{name: "where nobody tells, not for a second approval", answers: []func() *http.Response{pending, other, done}, code: 429, says: "bb22", sent: []time.Duration{0, 2 * time.Second}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tc.cancel > 0 {
					time.AfterFunc(tc.cancel, cancel)
				}
				s := &server{answers: tc.answers, began: time.Now()}
				h := newHolds(limit, slog.New(slog.DiscardHandler))
				if tc.people != nil {
					tc.people.began = time.Now()
					h.approvals = tc.people
				}
				if tc.full {
					h.room.most = 0
				}
				most := tc.most
				if most == 0 {
					most = limit
				}
				rt := &holdTransport{next: s, holds: h, agent: agent, most: most, again: func() error { return tc.again }}
				req := httptest.NewRequestWithContext(ctx, http.MethodPut, "/api/v1/namespaces/a/configmaps/one", nil)
				setBody(req, []byte("the body"))
				resp, err := rt.RoundTrip(req)
				took := time.Since(s.began)
				if tc.fails {
					if err == nil || ctx.Err() == nil {
						t.Errorf("%v %v", resp, err)
					}
				} else {
					if err != nil {
						t.Fatal(err)
					}
					body, err := io.ReadAll(resp.Body)
					if err != nil || resp.StatusCode != tc.code || !strings.Contains(string(body), tc.says) || resp.ContentLength != int64(len(body)) {
						t.Errorf("%d %s %v", resp.StatusCode, body, err)
					}
					if (resp.Header.Get("Retry-After") == "") != (tc.code == 401 || strings.Contains(tc.says, "Expired")) {
						t.Errorf("Retry-After %q", resp.Header.Get("Retry-After"))
					}
				}
				if len(s.at) != len(tc.sent) {
					t.Fatalf("sent at %v, want %v", s.at, tc.sent)
				}
				for i, want := range tc.sent {
					if late := s.at[i] - want; late < 0 || late > max(want/4, time.Second) || s.bodies[i] != "the body" {
						t.Errorf("number %d at %s, want %s: %q", i, s.at[i], want, s.bodies[i])
					}
				}
				if tc.people != nil && most < 0 && len(tc.people.asked) > 0 {
					t.Errorf("asked of %v", tc.people.asked)
				}
				if tc.took > 0 && took != tc.took {
					t.Errorf("took %s, want %s", took, tc.took)
				}
				if h.room.all != (share{}) || len(h.room.byRun) != 0 {
					t.Errorf("left in the room: %+v", h.room.all)
				}
			})
		})
	}
}

// A server that holds for ever, whatever is decided, is not asked for ever.
func TestAHeldChangeIsSentAgainABoundedNumberOfTimes(t *testing.T) {
	t.Parallel()
	for _, answer := range []func() *http.Response{pending, approvedSoon, usedNow} {
		synctest.Test(t, func(t *testing.T) {
			s := &server{answers: []func() *http.Response{answer}, began: time.Now()}
			h := newHolds(time.Hour, slog.New(slog.DiscardHandler))
			h.approvals = &people{phase: v1alpha1.PhaseApproved, began: time.Now()}
			rt := &holdTransport{next: s, holds: h, agent: agent, most: time.Hour, again: func() error { return nil }}
			resp, err := rt.RoundTrip(httptest.NewRequestWithContext(t.Context(), http.MethodDelete, "/api/v1/namespaces/a", nil))
			if err != nil || resp.StatusCode != 429 || len(s.at) != 1+maxRounds || time.Since(s.began) < 5*time.Second {
				t.Errorf("%v %v: sent %d times in %s", resp, err, len(s.at), time.Since(s.began))
			}
		})
	}
}

func TestTheRoomIsBounded(t *testing.T) {
	t.Parallel()
	one, two := agent.Key(), another.Key()
	w := &room{most: 3, mostPerRun: 2, mostBytes: 100, mostBytesPerRun: 60}
	var leaves []func()
	for _, step := range []struct {
		run   v1alpha1.RunKey
		bytes int64
		full  string
	}{{one, 10, ""}, {one, 60, "run"}, {one, 50, ""}, {one, 0, "run"}, {two, 50, "replica"}, {two, 40, ""}, {two, 0, "replica"}} {
		leave, full := w.enter(step.run, step.bytes)
		if full != step.full || (leave == nil) != (full != "") {
			t.Fatalf("%+v: %q", step, full)
		}
		if leave != nil {
			leaves = append(leaves, leave)
		}
	}
	for _, leave := range leaves {
		leave()
	}
	if w.all != (share{}) || len(w.byRun) != 0 {
		t.Errorf("left: %+v %+v", w.all, w.byRun)
	}
}

func TestHowLongAClientLetsItWait(t *testing.T) {
	t.Parallel()
	h := newHolds(time.Hour, slog.New(slog.DiscardHandler))
	for _, tc := range []struct {
		values []string
		want   time.Duration
		code   int32
	}{
		{nil, time.Hour, 0},
		{[]string{"0"}, 0, 0},
		{[]string{"30"}, 30 * time.Second, 0},
		{[]string{" 1m30s "}, 90 * time.Second, 0},
		{[]string{"48h"}, time.Hour, 0},
		{[]string{"-1s"}, 0, 400},
		{[]string{"-1"}, 0, 400},
		{[]string{""}, 0, 400},
		{[]string{"1.5"}, 0, 400},
		{[]string{"99999999999999"}, 0, 400},
		{[]string{"forever"}, 0, 400},
		{[]string{"1s", "2s"}, 0, 400},
	} {
		d, status := h.asked(http.Header{"Tipstaff-Wait": tc.values})
		code := int32(0)
		if status != nil {
			code = status.Status().Code
		}
		if d != tc.want || code != tc.code {
			t.Errorf("%q: %s %d", tc.values, d, code)
		}
	}
}

// onSignal decides when told to.
type onSignal struct {
	waiting chan string
	decide  chan v1alpha1.Phase
}

func (o *onSignal) Decided(ctx context.Context, name string, _ v1alpha1.Agent) (v1alpha1.Phase, error) {
	o.waiting <- name
	select {
	case p := <-o.decide:
		return p, nil
	case <-ctx.Done():
		return v1alpha1.PhasePending, nil
	}
}

// waitingProxy is a proxy before a server that holds each request once, and
// records what was sent.
func waitingProxy(t *testing.T) (*Proxy, *revocations, *httptest.Server, *onSignal, func() []*http.Request) {
	t.Helper()
	var mu sync.Mutex
	var sent []*http.Request
	p, revs := before(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(b))
		mu.Lock()
		sent = append(sent, r)
		first := len(sent) == 1
		mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		if first {
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, heldStatus("Held", "aa11", v1alpha1.PhasePending, 2))
			return
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprintf(w, `{"kind":"ConfigMap","metadata":{"name":%q}}`, "one")
	}, twoTokens{})
	o := &onSignal{make(chan string, 1), make(chan v1alpha1.Phase)}
	p.Follow(o)
	srv := httptest.NewServer(p.Handler())
	t.Cleanup(srv.Close)
	return p, revs, srv, o, func() []*http.Request {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(sent)
	}
}

const oneMap = `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"one"}}`

func TestAHeldRequestIsSentAgainAsItWas(t *testing.T) {
	t.Parallel()
	p, _, srv, o, sent := waitingProxy(t)
	go func() {
		<-o.waiting
		o.decide <- v1alpha1.PhaseApproved
	}()
	resp, body := call(t, srv, "POST", "/api/v1/namespaces/a/configmaps?fieldManager=x", http.Header{"Content-Type": {"application/json"}, "Tipstaff-Wait": {"10m"}, "User-Agent": {"me"}}, oneMap)
	if resp.StatusCode != http.StatusCreated || !strings.Contains(body, `"one"`) {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	rs := sent()
	if len(rs) != 2 {
		t.Fatalf("sent %d times", len(rs))
	}
	for i, r := range rs {
		b, err := io.ReadAll(r.Body)
		if err != nil || string(b) != oneMap || r.Method != "POST" || r.URL.RawQuery != "fieldManager=x" || r.Header.Get("Tipstaff-Wait") != "" {
			t.Errorf("number %d: %s %s %s %v", i, r.Method, r.URL, b, r.Header)
		}
	}
	first, second := rs[0].Header.Get("Audit-Id"), rs[1].Header.Get("Audit-Id")
	if first == "" || second != first+"-2" {
		t.Errorf("the audit ids are %q and %q", first, second)
	}
	rs[0].Header.Del("Audit-Id")
	rs[1].Header.Del("Audit-Id")
	if a, b := fmt.Sprint(rs[0].Header), fmt.Sprint(rs[1].Header); a != b || !strings.Contains(a, "agent:demo:bot") {
		t.Errorf("sent with %s, then with %s", a, b)
	}
	idle(t, p, 0)
}

// changing is a token that stands for one agent first, and for another after.
type changing struct {
	mu    sync.Mutex
	later bool
}

func (c *changing) Authenticate(context.Context, string) (v1alpha1.Agent, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := agent
	if c.later {
		a.Profile = "more"
	}
	c.later = true
	return a, nil
}

func TestI3_AHeldRequestIsSentAgainForTheVerySameAgent(t *testing.T) {
	t.Parallel()
	p, _, srv, o, sent := waitingProxy(t)
	p.auth = &changing{}
	go func() {
		<-o.waiting
		o.decide <- v1alpha1.PhaseApproved
	}()
	resp, body := call(t, srv, "POST", "/api/v1/namespaces/a/configmaps", http.Header{"Content-Type": {"application/json"}}, oneMap)
	if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "somebody else by now") || !strings.Contains(body, "Nothing has changed") || len(sent()) != 1 {
		t.Errorf("%d %s, sent %d times", resp.StatusCode, body, len(sent()))
	}
}

func TestTipstaffWaitIsChecked(t *testing.T) {
	t.Parallel()
	srv, _ := front(t, mustNotCall(t))
	resp, body := call(t, srv, "DELETE", "/api/v1/namespaces/a", http.Header{"Tipstaff-Wait": {"soon"}}, "")
	if resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, "one duration such as 90s") || !strings.Contains(body, `"kind":"Status"`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestI9_AWaitingRequestOfARevokedRunIsCut(t *testing.T) {
	t.Parallel()
	p, revs, srv, o, sent := waitingProxy(t)
	go func() {
		<-o.waiting
		revs.set(map[string]string{"r1": "it went astray"}, nil)
		revs.f()
	}()
	resp, body := call(t, srv, "POST", "/api/v1/namespaces/a/configmaps", http.Header{"Content-Type": {"application/json"}}, oneMap)
	if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(body, "it went astray") || len(sent()) != 1 {
		t.Errorf("%d %s, sent %d times", resp.StatusCode, body, len(sent()))
	}
	idle(t, p, 0)
}

func TestAWaitEndsWithItsClient(t *testing.T) {
	t.Parallel()
	p, _, srv, o, sent := waitingProxy(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-o.waiting
		cancel()
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL+"/api/v1/namespaces/a/configmaps", strings.NewReader(oneMap))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Authorization": {"Bearer good"}, "Content-Type": {"application/json"}}
	if resp, err := srv.Client().Do(req); err == nil {
		_ = resp.Body.Close()
		t.Errorf("%d", resp.StatusCode)
	}
	idle(t, p, 0)
	if len(sent()) != 1 {
		t.Errorf("sent %d times", len(sent()))
	}
}

// FuzzHeldBy: whatever came is passed on byte by byte, or is a wait for a name
// that an approval can have.
func FuzzHeldBy(f *testing.F) {
	f.Add([]byte(heldStatus("Held", "aa11", v1alpha1.PhasePending, 2)), "application/json")
	f.Add([]byte(heldStatus("TooMany", "aa11", v1alpha1.PhasePending, 60)), "application/json; charset=utf-8")
	f.Add([]byte(heldStatus("Held", "../../pods", v1alpha1.PhaseUsed, -1)), "application/json")
	f.Add(bytes.Repeat([]byte(" "), maxHeldBytes+1), "application/json")
	f.Fuzz(func(t *testing.T, body []byte, contentType string) {
		resp := response(429, string(body))
		resp.Header.Set("Content-Type", contentType)
		a := heldBy(resp)
		if a != nil {
			if a.after < time.Second || a.after > maxAfter || strings.ContainsAny(a.approval, "/%") || a.approval == "" {
				t.Errorf("waits %s for %q", a.after, a.approval)
			}
			if own, err := io.ReadAll(a.expired().Body); err != nil || !json.Valid(own) || bytes.Contains(own, []byte(`"tipstaff.dev/reason","message":"Held"`)) {
				t.Errorf("its end: %s %v", own, err)
			}
			resp = a.answer()
		}
		if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%q became %q, %v", body, got, err)
		}
	})
}

func FuzzParseWait(f *testing.F) {
	for _, s := range []string{"0", "30", "1m30s", "-1s", "1e9", "9223372036s", "2147483648"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, ok := parseWait(s); ok && d < 0 {
			t.Errorf("%q is %s", s, d)
		}
	})
}

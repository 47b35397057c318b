package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/schema"
)

// trialRules are few, so that each row of a test says what differs.
func trialRules() Config {
	hold := func(name, match string) Rule {
		return Rule{Name: name, Match: match, Verdict: Hold, Approvers: []string{"sre"}}
	}
	return Config{Rules: []Rule{
		hold("delete", "request.operation == 'DELETE'"),
		hold("shrink", "request.operation == 'UPDATE' && object.spec.replicas < oldObject.spec.replicas"),
		{Name: "prod", Match: "request.namespace == 'prod'", Verdict: Deny},
		{Name: "never", Match: "request.namespace == 'nowhere'", Verdict: Deny},
	}}
}

func trialRequest(op admissionv1.Operation, ns, object, old string, change ...func(*TrialRequest)) TrialRequest {
	tr := TrialRequest{
		Request: &admissionv1.AdmissionRequest{
			UID: "u", Operation: op, Namespace: ns, Name: "web",
			Kind:     metav1.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"},
			Resource: metav1.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"},
			UserInfo: authenticationv1.UserInfo{Username: "agent:ci:a", Groups: []string{v1alpha1.GroupAgents}},
			Object:   runtime.RawExtension{Raw: []byte(object)}, OldObject: runtime.RawExtension{Raw: []byte(old)},
		},
		Agent:  v1alpha1.Agent{User: "agent:ci:a", Issuer: "ci", Run: "r1"},
		Source: "file",
	}
	for _, c := range change {
		c(&tr)
	}
	return tr
}

func by(user, run string) func(*TrialRequest) {
	return func(tr *TrialRequest) { tr.Agent.User, tr.Agent.Run = user, run }
}

func lacks(p Part, why string) func(*TrialRequest) {
	return func(tr *TrialRequest) { tr.Unknown = map[Part]string{p: why} }
}

func each(trs ...TrialRequest) iter.Seq2[TrialRequest, error] {
	return func(yield func(TrialRequest, error) bool) {
		for _, tr := range trs {
			if !yield(tr, nil) {
				return
			}
		}
	}
}

func runTrial(t testing.TB, candidate Config, present *Config, requests iter.Seq2[TrialRequest, error]) *TrialReport {
	t.Helper()
	inForce := candidate
	if present != nil {
		inForce = *present
	}
	trial, err := NewTrial(candidate, inForce, present != nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := trial.Run(t.Context(), requests)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func ruleOf(t testing.TB, r *TrialReport, name string) TrialRule {
	t.Helper()
	for _, rule := range r.Rules {
		if rule.Rule == name {
			return rule
		}
	}
	t.Fatalf("no rule %q in %+v", name, r.Rules)
	return TrialRule{}
}

const three, one = `{"spec":{"replicas":3}}`, `{"spec":{"replicas":1}}`

func TestTrialCounts(t *testing.T) {
	t.Parallel()
	dry := func(tr *TrialRequest) { yes := true; tr.Request.DryRun = &yes }
	requests := []TrialRequest{
		trialRequest("DELETE", "shop", "", one),
		trialRequest("DELETE", "shop", "", one, by("agent:ci:b", "r2")),
		trialRequest("DELETE", "shop", "", one, by("agent:ci:b", "r3")),
		trialRequest("DELETE", "shop", "", one, dry),
		trialRequest("DELETE", "prod", "", one),                    // two rules, the stricter decides
		trialRequest("UPDATE", "shop", one, three),                 // shrinks
		trialRequest("UPDATE", "shop", three, one),                 // doesn't
		trialRequest("UPDATE", "shop", `{"spec":{}}`, three),       // can't be evaluated
		trialRequest("CREATE", "shop", one, "", by("agent:x", "")), // no run
		trialRequest("CREATE", ownNamespace, one, ""),              // where tipstaff runs
		trialRequest("CREATE", "shop", `"no object"`, ""),          // can't be judged
		{NotJudged: notAnAgent},                                    // nobody's
	}
	r := runTrial(t, trialRules(), nil, each(requests...))
	if got, want := [...]int{r.Judged, r.Allowed, r.Held, r.Denied, r.DryRun, r.Approximate, r.Agents, r.Runs}, [...]int{10, 2, 5, 3, 1, 0, 3, 3}; got != want {
		t.Errorf("judged, allowed, held, denied, dry runs, approximate, agents, runs: got %v, want %v", got, want)
	}
	if want := map[string]int{notAnAgent: 1, "could not be judged: such a request is refused": 1}; !reflect.DeepEqual(r.NotJudged, want) {
		t.Errorf("not judged: got %v, want %v", r.NotJudged, want)
	}
	if want := []string{"never"}; !reflect.DeepEqual(r.NeverMatched, want) {
		t.Errorf("never matched: got %v, want %v", r.NeverMatched, want)
	}
	for name, want := range map[string][6]int{ // held, denied, matched, failed, runs, agents
		"delete":       {3, 0, 5, 0, 3, 2},
		"shrink":       {2, 0, 2, 1, 1, 1},
		"prod":         {0, 1, 1, 0, 1, 1},
		noRunRule:      {0, 1, 1, 0, 0, 1},
		ownObjectsRule: {0, 1, 1, 0, 1, 1},
		"default":      {0, 0, 1, 0, 1, 1},
	} {
		rule := ruleOf(t, r, name)
		if got := [...]int{rule.Held, rule.Denied, rule.Matched, rule.Failed, rule.Runs, rule.Agents}; got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	del := ruleOf(t, r, "delete")
	if want := []TrialAgent{{"agent:ci:a", 3}, {"agent:ci:b", 2}}; !reflect.DeepEqual(del.TopAgents, want) {
		t.Errorf("agents of delete: got %v, want %v", del.TopAgents, want)
	}
	if len(del.Examples) != maxExamples || del.Examples[0].Action != `delete deployment "web" in namespace "shop"` {
		t.Errorf("got %+v", del.Examples)
	}
}

func TestTrialTellsWhatHangsOnTheUnknown(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		tr     TrialRequest
		approx bool
	}{
		"a rule that looks at the old object":                {trialRequest("UPDATE", "shop", one, "", lacks(PartOldObject, "x")), true},
		"no rule that does gets as far":                      {trialRequest("DELETE", "shop", "", "", lacks(PartOldObject, "x")), false},
		"an old object that is there but not for sure":       {trialRequest("UPDATE", "shop", three, one, lacks(PartOldObject, "x")), true},
		"options that no rule asks for":                      {trialRequest("UPDATE", "shop", three, one, lacks(PartOptions, "x")), false},
		"an object that a rule compares":                     {trialRequest("UPDATE", "shop", "", three, lacks(PartObject, "x")), true},
		"an object that no rule looks at for this operation": {trialRequest("CREATE", "shop", "", "", lacks(PartObject, "x")), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := runTrial(t, trialRules(), nil, each(row.tr))
			want := 0
			if row.approx {
				want = 1
			}
			if r.Judged != 1 || r.Approximate != want || len(r.ApproximateBecause) != want {
				t.Errorf("got %+v, want %d approximate", r, want)
			}
			if row.approx && ruleOf(t, r, "shrink").Approximate != 1 {
				t.Errorf("the rule that hangs on it is not named: %+v", r.Rules)
			}
		})
	}
}

// A held patch records no object: what is recorded is that a rule held it.
func TestTrialTakesTheRecordsWordForWhatIsUnknown(t *testing.T) {
	t.Parallel()
	tr := trialRequest("UPDATE", "shop", three, three, lacks(PartObject, "x"))
	r := runTrial(t, trialRules(), nil, each(tr))
	if r.Allowed != 1 || r.Undecided != 1 || slices.Contains(r.NeverMatched, "shrink") || ruleOf(t, r, "shrink").Matched != 0 {
		t.Errorf("with nothing recorded: %+v", r)
	}
	tr.Rule = "shrink"
	r = runTrial(t, trialRules(), nil, each(tr))
	if got := ruleOf(t, r, "shrink"); r.Held != 1 || r.Undecided != 0 || r.Approximate != 1 || got.Matched != 1 || got.Held != 1 || got.Approximate != 1 {
		t.Errorf("with the rule recorded: %+v", r)
	}
	for what, rule := range map[string]string{"a rule that isn't tried": "gone", "the default": "default"} {
		tr.Rule = rule
		if r = runTrial(t, trialRules(), nil, each(tr)); r.Allowed != 1 || r.Undecided != 1 {
			t.Errorf("with %s: %+v", what, r)
		}
	}
	// Of a rule that asks something else by now, the record tells nothing.
	tr.Rule = "shrink"
	present, narrower := trialRules(), trialRules()
	i := slices.IndexFunc(narrower.Rules, func(r Rule) bool { return r.Name == "shrink" })
	narrower.Rules[i].Match = "request.namespace == 'shop' && (" + narrower.Rules[i].Match + ")"
	if r = runTrial(t, narrower, &present, each(tr)); r.Held != 0 || r.Undecided != 1 || r.Comparison.NoLongerHeld != 1 {
		t.Errorf("with another rule of that name: %+v, %+v", r, r.Comparison)
	}
	present.Variables = []Variable{{Name: "less", Expression: "object.spec.replicas < oldObject.spec.replicas"}}
	present.Rules[i].Match = "request.operation == 'UPDATE' && variables.less"
	other := present
	other.Variables = []Variable{{Name: "less", Expression: "object.spec.replicas + 1 < oldObject.spec.replicas"}}
	if r = runTrial(t, other, &present, each(tr)); r.Held != 0 || r.Undecided != 1 {
		t.Errorf("with another variable of that name: %+v", r)
	}
	if r = runTrial(t, present, &present, each(tr)); r.Held != 1 || r.Undecided != 0 {
		t.Errorf("with the same variable: %+v", r)
	}
	// What is known is judged by the rules alone.
	known := trialRequest("UPDATE", "shop", three, one)
	known.Rule = "shrink"
	if r = runTrial(t, trialRules(), nil, each(known)); r.Held != 0 || r.Approximate != 0 {
		t.Errorf("a known request: %+v", r)
	}
}

func TestTrialCompares(t *testing.T) {
	t.Parallel()
	present := trialRules()
	candidate := trialRules()
	candidate.Rules[0].Match = "request.operation == 'DELETE' && request.namespace != 'scratch'"
	candidate.Rules[2].Verdict, candidate.Rules[2].Approvers = Hold, []string{"sre"}
	candidate.Rules = append(candidate.Rules, Rule{Name: "create", Match: "request.operation == 'CREATE'", Verdict: Hold, Approvers: []string{"sre"}})
	r := runTrial(t, candidate, &present, each(
		trialRequest("DELETE", "shop", "", one),    // as before
		trialRequest("DELETE", "scratch", "", one), // no longer held
		trialRequest("CREATE", "shop", one, ""),    // newly held
		trialRequest("CREATE", "shop", one, ""),
		trialRequest("UPDATE", "prod", three, one), // held, was denied
	))
	c := *r.Comparison
	steps := c.Steps
	c.Steps = nil
	if want := (TrialComparison{Same: 1, Changed: 4, NewlyHeld: 2, NoLongerHeld: 1, HeldNotDenied: 1}); !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
	if len(steps) != 3 || steps[0].Requests != 2 || steps[0].FromRule != "default" || steps[0].ToRule != "create" || len(steps[0].Examples) != 2 {
		t.Errorf("got %+v", steps)
	}
}

func TestTrialGoesOnAfterWhatCantBeRead(t *testing.T) {
	t.Parallel()
	trial, err := NewTrial(trialRules(), trialRules(), false)
	if err != nil {
		t.Fatal(err)
	}
	source := func(err error) iter.Seq2[TrialRequest, error] {
		return func(yield func(TrialRequest, error) bool) {
			_ = yield(TrialRequest{}, err) && yield(trialRequest("DELETE", "shop", "", one), nil)
		}
	}
	r, err := trial.Run(t.Context(), source(fmt.Errorf("a file: %w", ErrUnreadable)))
	if err != nil || r.Unreadable != 1 || r.Held != 1 {
		t.Errorf("got %+v, %v", r, err)
	}
	other := errors.New("the store is gone")
	if r, err := trial.Run(t.Context(), source(other)); r != nil || !errors.Is(err, other) {
		t.Errorf("got %+v, %v; want the error", r, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := trial.Run(ctx, each(trialRequest("DELETE", "shop", "", one))); r != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("after a cancel: got %+v, %v", r, err)
	}
}

func TestTrialReportHoldsNoControlCharacters(t *testing.T) {
	t.Parallel()
	evil := "a\x1b[2J\n\u202eb"
	r := runTrial(t, trialRules(), nil, each(trialRequest("DELETE", "prod", "", one, by(evil, evil), func(tr *TrialRequest) {
		tr.Source, tr.Request.Name, tr.Request.Kind.Kind = evil, evil, evil
	})))
	var out bytes.Buffer
	if err := r.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	all, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{out.String(), string(all)} {
		if strings.ContainsAny(s, "\x1b\u202e") || strings.Contains(s, "[2J\n") || !strings.Contains(s, "u001b") {
			t.Errorf("got %q", s)
		}
	}
}

// recordedEvent is an audit event of an agent that went through.
func recordedEvent(verb, request, response string, change ...func(*schema.Event)) *schema.Event {
	ev := &schema.Event{
		Cluster: "demo", AuditID: "a", Verb: verb, User: "agent:ci:a", Groups: []string{v1alpha1.GroupAgents}, Issuer: "ci", Run: "r1",
		APIGroup: "apps", APIVersion: "v1", Resource: "deployments", Namespace: "shop", Name: "web", Code: 200, Received: time.Unix(1, 0),
		RequestObject: request, ResponseObject: response,
	}
	for _, c := range change {
		c(ev)
	}
	return ev
}

// deployment in a version, scaled.
func deployment(version string, replicas int) string {
	return fmt.Sprintf(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","namespace":"shop","resourceVersion":%q},"spec":{"replicas":%d}}`, version, replicas)
}

func TestRecordedRequests(t *testing.T) {
	t.Parallel()
	seen := recordedEvent("get", "", deployment("7", 3))
	code := func(c uint16, verdict string) func(*schema.Event) {
		return func(e *schema.Event) { e.Code, e.Verdict = c, verdict }
	}
	for name, row := range map[string]struct {
		before  []*schema.Event
		ev      *schema.Event
		op      admissionv1.Operation
		object  string
		old     string
		unknown map[Part]string
		not     string
	}{
		"an update of the version that was read": {
			[]*schema.Event{seen}, recordedEvent("update", deployment("7", 1), deployment("8", 1)),
			"UPDATE", deployment("8", 1), deployment("7", 3), nil, "",
		},
		"an update of a later version: others changed it": {
			[]*schema.Event{seen}, recordedEvent("update", deployment("9", 1), deployment("10", 1)),
			"UPDATE", deployment("10", 1), deployment("7", 3), map[Part]string{PartOldObject: unknownOldStale}, "",
		},
		"a patch: the old object is never certain": {
			[]*schema.Event{seen}, recordedEvent("patch", `{"spec":{"replicas":1}}`, deployment("8", 1)),
			"UPDATE", deployment("8", 1), deployment("7", 3), map[Part]string{PartOldObject: unknownOldStale}, "",
		},
		"a patch that was held": {
			[]*schema.Event{seen}, recordedEvent("patch", `{"spec":{"replicas":1}}`, `{"kind":"Status","apiVersion":"v1"}`, code(429, "held")),
			"UPDATE", "", deployment("7", 3), map[Part]string{PartObject: unknownPatched, PartOldObject: unknownOldStale}, "",
		},
		"an update of what was never seen": {
			nil, recordedEvent("update", deployment("7", 1), deployment("8", 1)),
			"UPDATE", deployment("8", 1), "", map[Part]string{PartOldObject: unknownOld}, "",
		},
		"a dry run is not remembered": {
			[]*schema.Event{recordedEvent("update", "", deployment("7", 3), func(e *schema.Event) { e.DryRun = true })},
			recordedEvent("update", deployment("7", 1), deployment("8", 1)),
			"UPDATE", deployment("8", 1), "", map[Part]string{PartOldObject: unknownOld}, "",
		},
		"what was deleted is not remembered": {
			[]*schema.Event{seen, recordedEvent("delete", "", `{"kind":"Status","apiVersion":"v1"}`)},
			recordedEvent("update", deployment("7", 1), deployment("8", 1)),
			"UPDATE", deployment("8", 1), "", map[Part]string{PartOldObject: unknownOld}, "",
		},
		"nor what was deleted with its collection": {
			[]*schema.Event{seen, recordedEvent("deletecollection", "", "", func(e *schema.Event) { e.Name = "" })},
			recordedEvent("update", deployment("7", 1), deployment("8", 1)),
			"UPDATE", deployment("8", 1), "", map[Part]string{PartOldObject: unknownOld}, "",
		},
		"the same name elsewhere is another object": {
			[]*schema.Event{recordedEvent("get", "", deployment("7", 3), func(e *schema.Event) { e.Cluster = "other" })},
			recordedEvent("update", deployment("7", 1), deployment("8", 1)),
			"UPDATE", deployment("8", 1), "", map[Part]string{PartOldObject: unknownOld}, "",
		},
		"a create that went through": {
			nil, recordedEvent("create", `{"spec":{}}`, deployment("1", 1), code(201, "allowed")),
			"CREATE", deployment("1", 1), "", nil, "",
		},
		"a create that was denied": {
			nil, recordedEvent("create", deployment("", 1), `{"kind":"Status","apiVersion":"v1"}`, code(403, "denied")),
			"CREATE", deployment("", 1), "", map[Part]string{PartObject: unknownDefaults}, "",
		},
		"a body that is cut": {
			nil, recordedEvent("create", deployment("", 1), deployment("1", 1), code(201, "allowed"), func(e *schema.Event) { e.Truncated = true }),
			"CREATE", "", "", map[Part]string{PartObject: unknownBody, PartKind: unknownKind}, "",
		},
		"a delete answered with the object": {
			nil, recordedEvent("delete", "", deployment("8", 1)),
			"DELETE", "", deployment("8", 1), nil, "",
		},
		"exec, by a get": {
			nil, recordedEvent("get", "", "", code(101, "allowed"), func(e *schema.Event) { e.APIGroup, e.Resource, e.Subresource = "", "pods", "exec" }),
			"CONNECT", "", "", map[Part]string{PartObject: unknownCommand, PartKind: unknownKind}, "",
		},
		"refused by RBAC": {
			nil, recordedEvent("delete", "", "", code(403, "")),
			"DELETE", "", "", nil, "refused before the webhook was asked",
		},
		"an agent as somebody else": {
			nil, recordedEvent("delete", "", "", func(e *schema.Event) { e.User, e.Groups, e.Impersonator = "admin", nil, "agent:ci:a" }),
			"DELETE", "", "", nil, "an agent that acted as somebody else: the webhook is not asked about that one",
		},
		"a person": {
			nil, recordedEvent("delete", "", "", func(e *schema.Event) { e.User, e.Groups, e.Issuer, e.Run = "alice", nil, "", "" }),
			"DELETE", "", "", nil, notAnAgent,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := NewRecorded(nil)
			for _, ev := range row.before {
				c.Request(ev)
			}
			tr, asked := c.Request(row.ev)
			if !asked || tr.NotJudged != row.not || tr.Request.Operation != row.op {
				t.Fatalf("got %v, %q, %s", asked, tr.NotJudged, tr.Request.Operation)
			}
			if got := string(tr.Request.Object.Raw); got != row.object {
				t.Errorf("object: got %s, want %s", got, row.object)
			}
			if got := string(tr.Request.OldObject.Raw); got != row.old {
				t.Errorf("old object: got %s, want %s", got, row.old)
			}
			for _, never := range []Part{PartOptions, PartUser} {
				if tr.Unknown[never] == "" {
					t.Errorf("%s counts as known", never)
				}
				delete(tr.Unknown, never)
			}
			if len(tr.Unknown) != len(row.unknown) || len(row.unknown) > 0 && !reflect.DeepEqual(tr.Unknown, row.unknown) {
				t.Errorf("unknown: got %v, want %v", tr.Unknown, row.unknown)
			}
		})
	}
}

func TestRecordedReadsAreOnlyRemembered(t *testing.T) {
	t.Parallel()
	if tr, asked := NewRecorded(nil).Request(recordedEvent("get", "", deployment("7", 3))); asked {
		t.Errorf("got %+v", tr)
	}
}

func TestRecordedMemoryIsBounded(t *testing.T) {
	t.Parallel()
	c := NewRecorded(nil)
	pad := strings.Repeat("x", 8<<20)
	for i := range 40 {
		name := fmt.Sprintf("web-%d", i)
		c.Request(recordedEvent("get", "", fmt.Sprintf(`{"apiVersion":"v1","kind":"X","metadata":{"name":%q},"pad":%q}`, name, pad),
			func(e *schema.Event) { e.Name = name }))
	}
	if c.bytes > maxRememberedBytes || len(c.objects) != c.recent.Len() || len(c.objects) < 10 {
		t.Errorf("%d bytes in %d objects, %d in the list", c.bytes, len(c.objects), c.recent.Len())
	}
}

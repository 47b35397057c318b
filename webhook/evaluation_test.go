package webhook

import (
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// compileAll compiles rules without variables.
func compileAll(rules []Rule, at *field.Path) ([]rule, field.ErrorList) {
	book, errs := compileLists([]ruleList{{rules: rules}})
	for _, e := range errs {
		e.Field = at.String() + strings.TrimPrefix(e.Field, "rules")
	}
	return book.rules, errs
}

// matchesOn says what one expression gives on r.
func matchesOn(t *testing.T, r *review, expr string) (bool, error) {
	t.Helper()
	rules, errs := compileAll([]Rule{{Name: "r", Match: expr, Verdict: Deny}}, field.NewPath("rules"))
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	return newEvaluation(t.Context(), r, nil, nil).matches(&rules[0])
}

func TestWhatARuleSees(t *testing.T) {
	t.Parallel()
	req := request(t, "UPDATE apps/deployments/scale shop web", "{spec: {replicas: 1}}", "{spec: {replicas: 2}}")
	req.Kind = metav1.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}
	req.RequestKind = &metav1.GroupVersionKind{Group: "autoscaling", Version: "v2", Kind: "Scale"}
	req.RequestResource = &metav1.GroupVersionResource{Group: "apps", Version: "v1beta1", Resource: "deployments"}
	req.RequestSubResource = "scale"
	req.UserInfo.UID = "u-1"
	req.UserInfo.Extra["example.com/team"] = authenticationv1.ExtraValue{"shop", "web"}
	req.Options.Raw = []byte(`{"kind":"UpdateOptions","fieldManager":"kubectl"}`)
	bare := request(t, "DELETE core/namespaces - shop", "", "{metadata: {name: shop}}")
	bare.UserInfo = authenticationv1.UserInfo{}
	for _, tt := range []struct {
		name, expr string
		bare       bool
	}{
		{"kind", "request.kind.group == 'autoscaling' && request.kind.version == 'v1' && request.kind.kind == 'Scale'", false},
		{"resource", "request.resource.group == 'apps' && request.resource.version == 'v1' && request.resource.resource == 'deployments'", false},
		{"subResource", "request.subResource == 'scale' && request.requestSubResource == 'scale'", false},
		{"requestKind", "request.requestKind.version == 'v2'", false},
		{"requestResource", "request.requestResource.version == 'v1beta1'", false},
		{"names", "request.name == 'web' && request.namespace == 'shop' && request.operation == 'UPDATE'", false},
		{"the user's uid", "request.userInfo.uid == 'u-1' && request.userInfo.username == agent.user", false},
		{"the user's groups", "request.userInfo.groups.exists(g, g.startsWith('tipstaff:'))", false},
		{"the user's extra", "request.userInfo.extra['example.com/team'] == ['shop', 'web'] && request.userInfo.extra.?nothing.orValue([]) == []", false},
		{"options", "request.options.fieldManager == 'kubectl' && !request.dryRun", false},
		{"objects", "object.spec.replicas == 1 && oldObject.spec.replicas == 2", false},
		{"what is optional", "request.?subResource.orValue('x') == 'scale' && has(request.userInfo.extra) && agent.?task.orValue('x') == ''", false},

		{"requestKind is kind where it isn't given", "request.requestKind == request.kind && request.kind.kind == 'Namespace'", true},
		{"requestResource is resource where it isn't given", "request.requestResource.resource == 'namespaces' && request.requestSubResource == ''", true},
		{"a user of nothing", "request.userInfo.uid == '' && request.userInfo.groups == [] && request.userInfo.extra == {}", true},
		{"no object", "object == null && request.options == null && oldObject.metadata.name == 'shop'", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			of := req
			if tt.bare {
				of = bare
			}
			r, err := open(of, testAgent)
			if err != nil {
				t.Fatal(err)
			}
			if ok, err := matchesOn(t, r, tt.expr); err != nil || !ok {
				t.Errorf("got %t, %v", ok, err)
			}
		})
	}
}

func TestAFieldThatIsNotThereIsTheRulesFault(t *testing.T) {
	t.Parallel()
	for _, expr := range []string{"request.opration == 'DELETE'", "request.userInfo.name == ''", "agent.group == 'x'", "request.kind == 'Pod'"} {
		_, errs := compileAll([]Rule{{Name: "r", Match: expr, Verdict: Deny}}, field.NewPath("rules"))
		if len(errs) != 1 || !strings.Contains(errs[0].Error(), "rules[0].match") {
			t.Errorf("%s: got %v", expr, errs)
		}
	}
}

func TestOnlyWhatARuleReadsIsMade(t *testing.T) {
	t.Parallel()
	r, err := open(request(t, updateLine, "{spec: {a: 1}}", "{spec: {a: 1}}"), testAgent)
	if err != nil {
		t.Fatal(err)
	}
	rules, errs := compileAll([]Rule{
		{Name: "a", Match: "request.operation == 'UPDATE' && agent.run == 'other'", Verdict: Deny},
		{Name: "b", Match: "request.operation == 'UPDATE' && oldObject.spec.a == 1", Verdict: Deny},
	}, field.NewPath("rules"))
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	e := newEvaluation(t.Context(), r, nil, nil)
	if ok, err := e.matches(&rules[0]); ok || err != nil {
		t.Fatal(ok, err)
	}
	request := e.made["request"]
	if len(e.made) != 2 || request == nil {
		t.Errorf("made %v: only request and agent were read", e.made)
	}
	if ok, err := e.matches(&rules[1]); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if len(e.made) != 3 || e.made["request"] != request {
		t.Errorf("made %v: request was made twice, or more than was read", e.made)
	}
}

func TestTrialKnowsWhichPartsOfRequestAreOpen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		lacks Part
		match string
		open  bool
	}{
		{PartKind, "request.kind.kind == 'Scale'", true},
		{PartKind, "request.requestKind.kind == 'Scale'", true},
		{PartKind, "request.resource.resource == 'pods'", false},
		{PartUser, "request.userInfo.uid == 'u'", true},
		{PartUser, "'team' in request.userInfo.extra", true},
		{PartUser, "request.userInfo.username == 'u'", false},
		{PartOptions, "has(request.options.fieldManager)", true},
		{PartOptions, "request.operation == 'UPDATE' || has(request.options.fieldManager)", false},
	} {
		rules := Config{Rules: []Rule{{Name: "r", Match: tt.match, Verdict: Deny}}}
		trial, err := NewTrial(rules, rules, false)
		if err != nil {
			t.Fatal(err)
		}
		o, err := trial.set.judge(t.Context(), TrialRequest{Request: request(t, updateLine, "{}", "{}"), Agent: testAgent, Unknown: map[Part]string{tt.lacks: "x"}})
		if err != nil || o.undecided["r"] != tt.open {
			t.Errorf("%s without %s: undecided %v, %v", tt.match, tt.lacks, o.undecided, err)
		}
	}
}

package webhook

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// says is what a rule says of r, errors of a rule being all alike.
func says(t *testing.T, r *review, rule *rule) string {
	t.Helper()
	is, err := newEvaluation(t.Context(), r, nil, nil).matches(rule)
	if err != nil {
		return "error"
	}
	return fmt.Sprint(is)
}

// sameInShape holds that the rule for the shape of r says of r what the rule says.
func sameInShape(t *testing.T, r *review, rule *rule) (settled bool) {
	t.Helper()
	want, got := says(t, r, rule), "false"
	in, can := rule.in(shapeOf(r.req))
	if can {
		got = says(t, r, in)
	}
	if got != want {
		t.Errorf("rule %q (%s) of %+v: %s where it is settled, %s else", rule.Name, rule.Match, shapeOf(r.req), got, want)
	}
	return in != rule
}

func TestARuleSaysTheSameInItsShape(t *testing.T) {
	t.Parallel()
	const (
		yes, no  = "request.operation == 'UPDATE'", "request.operation == 'DELETE'"
		t1, f1   = "object.spec.replicas == 1", "object.spec.replicas == 2"
		bad, odd = "object.nothing.at.all == 1", "object.spec.replicas"
	)
	parts := []string{yes, no, t1, f1, bad, odd, "'scale' != request.subResource", "request.resource.group in ['', 'apps']", "'apps' in [request.resource.group]"}
	exprs := []string{
		"request.resource.resource in ['pods', 'deployments'] && request.resource.resource != 'pods'",
		"[request.resource.resource == 'pods' ? object.spec : object.?spec.?replicas.orValue(0)].exists(s, s == 1)",
		"[1, 2].exists(request, request == 2)", "[{'operation': 'x'}].exists(request, request.operation == 'x')",
		"[1].all(s, request.operation == 'UPDATE' && s == object.spec.replicas)", "[].exists(s, request.operation == 'UPDATE')",
		"request.operation in ['UPDATE', agent.run]", "request.operation in []", "agent.run in [request.operation]",
		"request.operation == request.resource.resource", "request.namespace == 'shop' && request.operation == 'UPDATE'",
		"request.?operation == optional.of('UPDATE')", "request.operation.startsWith('U') || request.name == ''",
		"request['operation'] == 'UPDATE'", "request.operation > 'DELETE'", "has(request.operation) && request.operation != ''",
		"(request.operation == 'UPDATE' && object.spec.replicas) == true", "(object.spec.replicas || request.operation == 'DELETE') in [true]",
		"[request.operation == 'UPDATE' && object.spec.replicas].exists(x, x == true)",
		"true", "false", "!true || request.operation == 'UPDATE'", "dyn(request.operation == 'UPDATE' ? 1 : true)",
		"cel.bind(x, request.operation == 'UPDATE', x && object.spec.replicas == 1)", "'UPDATE' == request.operation && 'x' == request.subResource",
	}
	for _, a := range parts {
		exprs = append(exprs, "!("+a+")")
		for _, b := range parts {
			exprs = append(exprs, a+" && "+b, a+" || "+b, "!("+a+" && "+b+") || "+b)
			for _, c := range parts {
				exprs = append(exprs, "("+a+") ? ("+b+") : ("+c+")", "("+a+" || "+b+") && "+c, a+" && "+b+" && "+c)
			}
		}
	}
	rules := make([]rule, 0, len(exprs))
	for i, e := range exprs {
		compiled, errs := compileAll([]Rule{{Name: fmt.Sprint(i), Match: e, Verdict: Deny}}, field.NewPath("rules"))
		if len(errs) == 0 { // some of the combinations are none
			rules = append(rules, compiled[0])
		}
	}
	if len(rules) < 1000 {
		t.Fatalf("only %d of %d expressions compile", len(rules), len(exprs))
	}
	settled := 0
	for _, line := range []string{"UPDATE apps/deployments shop web", "UPDATE core/pods shop web", "DELETE apps/deployments/scale shop web"} {
		r, err := open(request(t, line, "{spec: {replicas: 1}}", "{spec: {replicas: 2}}"), testAgent)
		if err != nil {
			t.Fatal(err)
		}
		for i := range rules {
			if sameInShape(t, r, &rules[i]) {
				settled++
			}
		}
	}
	if settled < 2*len(rules) {
		t.Errorf("only %d of %d were settled", settled, 3*len(rules))
	}
}

func TestShapesAreSettledOnceTheyRecur(t *testing.T) {
	t.Parallel()
	compiled, errs := compileAll([]Rule{
		{Name: "pods", Match: "request.resource.resource == 'pods' || request.operation == 'DELETE'", Verdict: Deny},
		{Name: "shop", Match: "request.operation == 'UPDATE' && request.namespace == 'shop'", Verdict: Deny},
		{Name: "any", Match: "object.metadata.name == 'a'", Verdict: Deny},
	}, field.NewPath("rules"))
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	x := newIndex(compiled)
	names := func(req *admissionv1.AdmissionRequest) string {
		all := ""
		for _, r := range x.candidates(req) {
			all += r.Name + " "
		}
		return all
	}
	req := request(t, "UPDATE core/configmaps shop a", "{}", "{}")
	elsewhere := request(t, "UPDATE core/configmaps prod a", "{}", "{}")
	if got := names(req); got != "pods shop any " {
		t.Errorf("at first: %q", got)
	}
	var together sync.WaitGroup
	for range 2 * shapedAfter {
		together.Go(func() { x.candidates(req) })
	}
	together.Wait()
	if got := names(req); got != "shop any " {
		t.Errorf("then: %q", got)
	}
	if got := names(elsewhere); got != "any " {
		t.Errorf("in another namespace: %q", got)
	}
	// What an agent makes up is not remembered for good.
	for i := range 10 * maxShapes {
		r := request(t, fmt.Sprintf("UPDATE core/made-up-%d shop a", i), "{}", "{}")
		for range shapedAfter + 1 {
			x.candidates(r)
		}
	}
	if n := x.shapes.recent.Len(); n > maxShapes {
		t.Errorf("%d shapes are remembered", n)
	}
	if got := names(req); got != "pods shop any " {
		t.Errorf("once forgotten: %q", got)
	}
}

// Rules of a namespace and rules of all stay in their order.
func TestShapedRulesKeepTheirOrder(t *testing.T) {
	t.Parallel()
	var rules []Rule
	for _, r := range []string{"a any", "b shop", "c any", "d shop", "e prod", "f shop", "g any", "h prod"} {
		name, where, _ := strings.Cut(r, " ")
		match := "object.x == 1"
		if where != "any" {
			match = "request.namespace == '" + where + "' && " + match
		}
		rules = append(rules, Rule{Name: name, Match: match, Verdict: Deny})
	}
	book, errs := compileLists([]ruleList{{rules: rules}})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	x := newIndex(book.rules)
	for range shapedAfter + 1 {
		for namespace, want := range map[string]string{"shop": "abcdfg", "prod": "acegh", "else": "acg"} {
			got := ""
			for _, r := range x.candidates(request(t, "UPDATE core/configmaps "+namespace+" a", "{}", "{}")) {
				got += r.Name
			}
			if got != want {
				t.Errorf("in %s: %s, want %s", namespace, got, want)
			}
		}
	}
}

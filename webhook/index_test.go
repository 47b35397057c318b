package webhook

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// tricky are rules whose bounds are easy to read wrongly.
var tricky = []string{
	"true",
	"request.operation == 'DELETE'",
	"'DELETE' == request.operation",
	"request.operation in ['CREATE', 'UPDATE'] && request.resource.resource == 'pods'",
	"request.operation == 'CREATE' || request.resource.resource == 'pods'",
	"request.operation == 'CREATE' || request.operation == 'DELETE'",
	"!(request.operation == 'CREATE')",
	"request.operation != 'CREATE'",
	"request.operation == 'CREATE' ? true : request.resource.resource == 'pods'",
	"request.operation == 'CREATE' && object.nothing.here == 1",
	"object.nothing.here == 1 && request.operation == 'CREATE'",
	"object.nothing.here == 1 || request.operation == 'CREATE'",
	"(object.nothing.here == 1 || request.resource.resource == 'pods') && request.operation == 'CREATE'",
	"request.resource.resource == 'pods' && request.resource.resource == 'secrets'",
	"request.subResource in ['', 'scale'] && request.resource.group in ['', 'apps']",
	"request.subResource == ''",
	"request.namespace == 'shop' || request.namespace in ['bank', '']",
	"['DELETE'].exists(request, request == 'DELETE')",
	"['a'].exists(x, request.operation == 'CREATE')",
	"request.operation in [dyn('CREATE'), dyn(agent.run)]",
	"request.resource.resource in ['pods'] || request.resource.resource.startsWith('dep')",
	"request.operation == agent.task",
	"request.?operation.orValue('') == 'DELETE' && request.name == 'web'",
	"request.requestResource.resource == 'pods' || request.operation in [agent.run, 'DELETE']",
	"request.userInfo.uid == '' && request.namespace == 'shop'",
	"has(request.operation) && request.resource.group == 'apps'",
}

// Whatever the index skips would have been false, without an error.
func TestTheIndexSkipsOnlyWhatIsFalse(t *testing.T) {
	t.Parallel()
	rules, err := DefaultRules()
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range tricky {
		rules = append(rules, Rule{Name: fmt.Sprintf("tricky-%d", i), Match: m, Verdict: Deny})
	}
	compiled, errs := compileAll(rules, field.NewPath("rules"))
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	x := newIndex(compiled)
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	skipped, matched := 0, 0
	for range 3000 {
		sub := pick("", "", "", "/scale", "/exec", "/eviction", "/status", "/proxy", "/token")
		line := pick("CREATE", "UPDATE", "DELETE", "CONNECT") + " " +
			pick("core", "apps", "batch", "rbac.authorization.k8s.io", "apiextensions.k8s.io", "tipstaff.dev", "example.com") + "/" +
			pick("pods", "deployments", "secrets", "namespaces", "nodes", "statefulsets", "roles", "customresourcedefinitions", "grants", "serviceaccounts", "things") + sub +
			" " + pick("-", "shop", "bank", "kube-system") + " " + pick("-", "web")
		object := func() string {
			return pick("", "{}", "{spec: {replicas: 0}}", "{spec: {replicas: 100}}", "{spec: 7}", "{spec: {hostPID: true, serviceAccountName: x}}", "{nothing: {here: 1}}")
		}
		req := request(t, line, object(), object())
		rv, err := open(req, testAgent)
		if err != nil {
			t.Fatal(err)
		}
		e := newEvaluation(t.Context(), rv, nil, nil)
		can := x.candidates(req)
		for i := range compiled {
			rule := &compiled[i]
			ok, err := e.matches(rule)
			if slices.Contains(can, rule) {
				if ok {
					matched++
				}
				continue
			}
			skipped++
			if ok || err != nil {
				t.Fatalf("rule %q (%s) is skipped on %s, and gives %t, %v", rule.Name, rule.Match, line, ok, err)
			}
		}
		if !slices.IsSortedFunc(can, func(a, b *rule) int {
			return slices.Index(names(compiled), a.Name) - slices.Index(names(compiled), b.Name)
		}) {
			t.Fatal("the candidates are out of order")
		}
	}
	if skipped < 3000*len(compiled)/2 || matched == 0 {
		t.Errorf("%d skipped, %d matched: an index that finds nothing shows nothing", skipped, matched)
	}
}

func names(rules []rule) []string {
	var out []string
	for _, r := range rules {
		out = append(out, r.Name)
	}
	return out
}

// BenchmarkRules has 10 and 1,000 rules of which few can match: each is about
// another resource or namespace.
func BenchmarkRules(b *testing.B) {
	object := "{spec: {template: {spec: {containers: [{image: shop}]}}}, metadata: {labels: {c: d}}}"
	for _, n := range []int{10, 1000} {
		rules := make([]Rule, n)
		for i := range rules {
			match := fmt.Sprintf("request.resource.resource == 'deployments' && object.spec.template.spec.containers.exists(c, c.image.startsWith('bad-%d'))", i)
			if i >= 10 {
				match = fmt.Sprintf("request.operation in ['CREATE', 'UPDATE'] && request.namespace == 'team-%d' && object.spec.template.spec.containers.exists(c, c.image.startsWith('bad'))", i)
			}
			rules[i] = Rule{Name: fmt.Sprintf("r%d", i), Match: match, Verdict: Deny}
		}
		set, err := NewRuleSet(Config{Rules: rules})
		if err != nil {
			b.Fatal(err)
		}
		req := request(b, "UPDATE apps/deployments shop web", object, object)
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			for b.Loop() {
				if j, err := set.Judge(b.Context(), req, testAgent); err != nil || j.Verdict != Allow {
					b.Fatal(j, err)
				}
			}
		})
	}
}

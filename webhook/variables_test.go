package webhook

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestVariables(t *testing.T) {
	t.Parallel()
	cfg := func(match string) Config {
		return Config{
			Variables: []Variable{
				{Name: "containers", Expression: "object.?spec.containers.orValue([])"},
				{Name: "images", Expression: "variables.containers.map(c, c.image)"},
				{Name: "count", Expression: "size(variables.images)"},
				{Name: "broken", Expression: "object.nothing.here"},
			},
			Rules: []Rule{{Name: "r", Match: match, Verdict: Deny}},
		}
	}
	req := request(t, "CREATE core/pods shop web", "{spec: {containers: [{image: a}, {image: b}]}}", "")
	for _, tt := range []struct {
		name, match    string
		denied, failed bool
	}{
		{"a variable is read", "variables.count == 2", true, false},
		{"it is typed", "variables.count + 1 == 3 && variables.images[1] == 'b'", true, false},
		{"a variable that isn't so doesn't match", "variables.count == 3", false, false},
		{"a rule that reads one that fails counts as matching", "variables.broken == 1", true, true},
		{"a rule that gets by without it does not", "variables.count == 3 && variables.broken == 1", false, false},
		{"a name of a loop is its own", "[1].exists(variables, variables == 1)", true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			set, err := NewRuleSet(cfg(tt.match))
			if err != nil {
				t.Fatal(err)
			}
			j, err := set.Judge(t.Context(), req, testAgent)
			if err != nil || (j.Verdict == Deny) != tt.denied || j.Failed != tt.failed {
				t.Errorf("got %+v, %v", j, err)
			}
		})
	}
}

func TestVariablesAreEvaluatedOnceAndOnlyWhereRead(t *testing.T) {
	t.Parallel()
	book, errs := compileLists([]ruleList{{
		variables: []Variable{
			{Name: "a", Expression: "[1, 2, 3, 4, 5].map(x, x * 2)"},
			{Name: "unread", Expression: "[1, 2, 3].map(x, x)"},
		},
		rules: []Rule{
			{Name: "one", Match: "variables.a[0] == 7", Verdict: Deny},
			{Name: "two", Match: "variables.a[0] == 7", Verdict: Deny},
		},
	}})
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	r, err := open(request(t, updateLine, "{}", "{}"), testAgent)
	if err != nil {
		t.Fatal(err)
	}
	e := newEvaluation(t.Context(), r, book.variables, nil)
	spent := [2]uint64{}
	for i := range book.rules {
		before := e.spent
		if ok, err := e.matches(&book.rules[i]); ok || err != nil {
			t.Fatal(ok, err)
		}
		spent[i] = e.spent - before
	}
	if spent[0] <= spent[1] || spent[1] == 0 {
		t.Errorf("the rules cost %v: the first pays for the variable, the second doesn't", spent)
	}
	if _, made := e.made["variables.unread"]; made || e.made["variables.a"] == nil {
		t.Errorf("made %v", e.made)
	}
}

func TestFaultsOfVariables(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		vars []Variable
		want string // the faults, in part; empty means none
	}{
		{"one that uses another before it is fine", []Variable{{"a", "1"}, {"b", "variables.a + 1"}}, ""},
		{"one that uses itself is refused", []Variable{{"a", "variables.a"}}, "variables[0].expression"},
		{"one that uses a later one is refused", []Variable{{"a", "variables.b"}, {"b", "1"}}, "variables[0].expression"},
		{"what it knows is named", []Variable{{"a", "1"}, {"b", "variables.aa + variables.a"}}, "variables.aa: not among the variables defined before this, variables.a"},
		{"and that it knows nothing", []Variable{{"a", "variables.b"}}, "variables.b: no variable is defined before this"},
		{"without a name", []Variable{{"", "1"}}, "variables[0].name: Required"},
		{"a name given twice", []Variable{{"a", "1"}, {"a", "2"}}, "variables[1].name: Duplicate"},
		{"a name with a dash", []Variable{{"a-b", "1"}}, "variables[0].name: Invalid"},
		{"a name that starts with a digit", []Variable{{"1a", "1"}}, "variables[0].name: Invalid"},
		{"a name that is a word of CEL's", []Variable{{"in", "1"}}, "variables[0].name: Invalid"},
		{"a long name", []Variable{{strings.Repeat("a", 64), "1"}}, "variables[0].name: Too long"},
		{"no expression", []Variable{{"a", ""}}, "variables[0].expression"},
		{"a field that isn't there", []Variable{{"a", "request.label"}}, "variables[0].expression"},
	} {
		_, errs := compileLists([]ruleList{{variables: tt.vars}})
		if tt.want == "" && len(errs) > 0 || tt.want != "" && (len(errs) != 1 || !strings.Contains(errs[0].Error(), tt.want)) {
			t.Errorf("%s: got %v, want %s", tt.name, errs, tt.want)
		}
	}
	_, errs := compileLists([]ruleList{{
		variables: []Variable{{Name: "a", Expression: "nonsense"}},
		rules:     []Rule{{Name: "r", Match: "variables.a == 1", Verdict: Deny}},
	}})
	if len(errs) != 1 || errs[0].Field != "variables[0].expression" {
		t.Errorf("who reads a variable that doesn't compile is blamed too: %v", errs)
	}
}

func TestTrialKnowsWhatVariablesHangOn(t *testing.T) {
	t.Parallel()
	rules := Config{
		Variables: []Variable{{Name: "old", Expression: "oldObject.spec.a"}, {Name: "new", Expression: "object.spec.a"}},
		Rules: []Rule{
			{Name: "open", Match: "variables.old == 1", Verdict: Deny},
			{Name: "closed", Match: "variables.new == 2 || variables.old == 1", Verdict: Deny},
		},
	}
	trial, err := NewTrial(rules, rules, false)
	if err != nil {
		t.Fatal(err)
	}
	o, err := trial.set.judge(t.Context(), TrialRequest{
		Request: request(t, updateLine, "{spec: {a: 2}}", ""), Agent: testAgent, Unknown: map[Part]string{PartOldObject: "x"},
	})
	if err != nil || !o.undecided["open"] || o.undecided["closed"] {
		t.Errorf("got %v, %v", o.undecided, err)
	}
}

// costly is false, quickly, and costs two hundred thousand on the object of longText.
const costly = "object.text.contains('01234567890123456789')"

func longText() string { return "{text: " + strings.Repeat("x", 1<<20) + "}" }

func TestRulesShareABudget(t *testing.T) {
	t.Parallel()
	rules := make([]Rule, 100)
	for i := range rules {
		rules[i] = Rule{Name: fmt.Sprintf("r%d", i), Match: costly, Verdict: Hold, Approvers: []string{"sre"}}
	}
	rules[99].Verdict = Deny
	set, err := NewRuleSet(Config{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	j, err := set.Judge(t.Context(), request(t, "CREATE core/configmaps shop c", longText(), ""), testAgent)
	if err != nil || j.Verdict != Deny || j.Rule != "r99" || !j.Failed {
		t.Fatalf("got %s by %s (failed %t), %v: a rule that isn't evaluated any more counts as matching", j.Verdict, j.Rule, j.Failed, err)
	}
	if n := len(j.Matched); n < 40 || n > 60 {
		t.Errorf("%d of 100 rules failed, half of them fit", n)
	}
	rules = rules[:3]
	if set, err = NewRuleSet(Config{Rules: rules}); err != nil {
		t.Fatal(err)
	}
	if j, err := set.Judge(t.Context(), request(t, "CREATE core/configmaps shop c", longText(), ""), testAgent); err != nil || j.Verdict != Allow {
		t.Errorf("three of them: got %+v, %v", j, err)
	}
}

func TestVariablesCountAgainstTheBudget(t *testing.T) {
	t.Parallel()
	cfg := Config{Rules: []Rule{{Name: "r", Match: "false", Verdict: Deny}}}
	for i := range 100 {
		cfg.Variables = append(cfg.Variables, Variable{Name: fmt.Sprintf("v%d", i), Expression: costly})
		cfg.Rules[0].Match += fmt.Sprintf(" || variables.v%d", i)
	}
	lists, fault := cfg.ruleLists(field.NewPath("webhook"))
	if fault != nil {
		t.Fatal(fault)
	}
	book, errs := compileLists(lists)
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	r, err := open(request(t, "CREATE core/configmaps shop c", longText(), ""), testAgent)
	if err != nil {
		t.Fatal(err)
	}
	e := newEvaluation(t.Context(), r, book.variables, nil)
	if ok, err := e.matches(&book.rules[0]); err == nil {
		t.Errorf("got %t: 100 costly variables in one rule fit", ok)
	}
	if e.spent < reviewBudget || e.spent > 2*reviewBudget {
		t.Errorf("spent %d of %d", e.spent, reviewBudget)
	}
}

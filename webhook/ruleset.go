package webhook

import (
	"context"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// RuleSet judges requests by the rules of a config, and nothing else of it: the
// webhook by it, and whoever tries rules on the past.
type RuleSet struct {
	rules     index
	variables map[string]*variable
	reads     map[string]bool // the variables that rules read
	cluster   *Cluster        // nil where it isn't asked
	fallback  Verdict
}

// Judgement is the verdict on a request, and the rules that matched it.
type Judgement struct {
	Verdict Verdict
	// Rule gave the verdict: "default" where none matched.
	Rule string
	// Failed means that Rule could not be evaluated and counts as matching.
	Failed  bool
	Matched []RuleMatch
}

// RuleMatch is one rule that matched, or failed.
type RuleMatch struct {
	Rule    string
	Verdict Verdict
	Failed  bool
}

// NewRuleSet compiles the rules of cfg, the shipped ones where it has none.
func NewRuleSet(cfg Config) (*RuleSet, error) {
	lists, fault := cfg.ruleLists(field.NewPath("webhook"))
	if fault != nil {
		return nil, fault
	}
	book, errs := compileLists(lists)
	if len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	s := &RuleSet{rules: newIndex(book.rules), variables: book.variables, reads: book.reads, fallback: cfg.Default}
	if s.fallback == "" {
		s.fallback = Allow
	}
	return s, nil
}

// findings are the rules that match r, and those that fail on it.
func (s *RuleSet) findings(ctx context.Context, r *review) []finding {
	candidates := s.rules.candidates(r.req)
	if len(candidates) == 0 {
		return nil
	}
	e := newEvaluation(ctx, r, s.variables, s.cluster)
	var found []finding
	for _, rule := range candidates {
		ok, err := e.matches(rule)
		if err != nil || ok {
			found = append(found, finding{rule: rule, failed: err != nil})
		}
	}
	return found
}

// Judge runs every rule over a request of an agent. An error means that it could not be judged.
func (s *RuleSet) Judge(ctx context.Context, req *admissionv1.AdmissionRequest, agent v1alpha1.Agent) (Judgement, error) {
	r, err := open(req, agent)
	if err != nil {
		return Judgement{}, err
	}
	findings := s.findings(ctx, r)
	if err := ctx.Err(); err != nil {
		return Judgement{}, err
	}
	d := decide(findings, s.fallback)
	j := Judgement{Verdict: d.verdict, Rule: defaultRuleName, Failed: d.failed}
	if d.rule != nil {
		j.Rule = d.rule.Name
	}
	for _, f := range findings {
		j.Matched = append(j.Matched, RuleMatch{Rule: f.rule.Name, Verdict: f.rule.Verdict, Failed: f.failed})
	}
	return j, nil
}

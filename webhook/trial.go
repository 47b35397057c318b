package webhook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

const (
	// maxExamples is how many requests are shown of a rule.
	maxExamples = 3
	// maxTopAgents is how many agents are named of a rule.
	maxTopAgents = 5
	// maxCounted bounds the different runs, and agents, that are told apart of
	// one rule: what comes after is in the counts of requests only.
	maxCounted = 100_000
	// maxSteps bounds the different changes that a comparison tells apart: rules
	// by rules, far above what an admin reads.
	maxSteps = 10_000
	// noRunRule stands for the refusal of an identity without a run.
	noRunRule = "no-run"
)

// RuleFile is a file of rules alone, such as manifests/rules/default.yaml.
type RuleFile struct {
	// Variables are named expressions for all rules.
	Variables []Variable `json:"variables,omitempty"`
	Rules     []Rule     `json:"rules"`
}

// Validate reports everything wrong with f.
func (f *RuleFile) Validate(at *field.Path) field.ErrorList {
	if len(f.Rules) == 0 {
		return field.ErrorList{field.Required(at.Child("rules"), "a file of rules needs one")}
	}
	_, errs := compileLists([]ruleList{{variables: f.Variables, rules: f.Rules, at: at}})
	return errs
}

// RulesOf are the rules in force under cfg: the shipped ones where it has none.
func RulesOf(cfg Config) ([]Rule, error) {
	rules, _, err := rulesOf(cfg)
	return rules, err
}

func rulesOf(cfg Config) ([]Rule, []Variable, error) {
	lists, fault := cfg.ruleLists(nil)
	if fault != nil {
		return nil, nil, fault
	}
	var rules []Rule
	var variables []Variable
	for _, l := range lists {
		for _, r := range l.rules {
			rules = append(rules, r.withDefaults())
		}
		variables = append(variables, l.variables...)
	}
	return rules, variables, nil
}

// TrialRequest is one request of the past.
type TrialRequest struct {
	Request *admissionv1.AdmissionRequest
	Agent   v1alpha1.Agent
	// Unknown are the parts that are not as the API server would show them,
	// each with the reason.
	Unknown map[Part]string
	// NotJudged says why no rule is asked about it; empty means that they are.
	NotJudged string
	// Source says where it comes from: a file, or the id of an audit event.
	Source string
	// Rule is the rule that gave the verdict then, empty where none did or that is
	// not known. Where it hangs on something unknown, it is taken to match as it
	// did, as long as it asks the same as the rule in force.
	Rule string
	// At is when it was made, zero where that is not known.
	At time.Time
}

// Trial runs rules over requests of the past and changes nothing.
type Trial struct {
	set, present *trialSet
}

// trialSet is one set of rules under trial.
type trialSet struct {
	*RuleSet
	rules   []Rule
	partial *partial
	// recorded are the rules that ask what the rule of that name in force asks:
	// what is recorded of one is true of the other.
	recorded map[string]bool
}

// NewTrial compiles the rules of candidate. inForce are the rules that judged
// the requests then; compare asks what candidate changes against them.
func NewTrial(candidate, inForce Config, compare bool) (*Trial, error) {
	t := &Trial{}
	var err error
	if t.set, err = newTrialSet(candidate, inForce); err != nil {
		return nil, err
	}
	if compare {
		if t.present, err = newTrialSet(inForce, inForce); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func newTrialSet(cfg, inForce Config) (*trialSet, error) {
	set, err := NewRuleSet(cfg)
	if err != nil {
		return nil, err
	}
	rules, variables, err := rulesOf(cfg)
	if err != nil {
		return nil, err
	}
	p, err := newPartial(cfg)
	if err != nil {
		return nil, err
	}
	s := &trialSet{RuleSet: set, rules: rules, partial: p, recorded: map[string]bool{}}
	then, variablesThen, err := rulesOf(inForce)
	if err != nil {
		return nil, err
	}
	sameVariables := slices.Equal(variables, variablesThen)
	for _, r := range rules {
		s.recorded[r.Name] = slices.ContainsFunc(then, func(o Rule) bool {
			return o.Name == r.Name && o.Match == r.Match && (sameVariables || !strings.Contains(r.Match, "variables"))
		})
	}
	return s, nil
}

// ErrUnreadable marks an error of a source of requests that concerns one of
// them: a trial counts it and goes on.
var ErrUnreadable = errors.New("can't be read")

// outcome is what one set of rules says of one request.
type outcome struct {
	Judgement
	// dryRun means that the rule holds, but a dry run changes nothing and goes through.
	dryRun bool
	// undecided are the rules that hang on something unknown.
	undecided map[string]bool
}

// judge is the webhook's order of checks, but for what a record doesn't tell:
// whether a run was revoked then, the limits of grants, a value that a mask hides.
func (s *trialSet) judge(ctx context.Context, tr TrialRequest) (outcome, error) {
	r, err := open(tr.Request, tr.Agent)
	if err != nil {
		return outcome{}, err
	}
	builtIn := func(name string) outcome { return outcome{Judgement: Judgement{Verdict: Deny, Rule: name}} }
	if tr.Agent.Run == "" || tr.Agent.Issuer == "" {
		return builtIn(noRunRule), nil
	}
	if ownObject(r) != "" {
		return builtIn(ownObjectsRule), nil
	}
	j, err := s.Judge(ctx, tr.Request, tr.Agent)
	if err != nil {
		return outcome{}, err
	}
	o := outcome{Judgement: j}
	unknown := make([]Part, 0, len(tr.Unknown))
	for p := range tr.Unknown {
		unknown = append(unknown, p)
	}
	if o.undecided, err = s.partial.undecided(ctx, r, unknown); err != nil {
		return outcome{}, err
	}
	if o.undecided[tr.Rule] && s.recorded[tr.Rule] {
		s.matchedThen(&o.Judgement, tr.Rule)
	}
	switch {
	case o.Verdict == Allow && asksForGrant(tr.Request):
		o.Judgement = Judgement{Verdict: Deny, Rule: grantsRule}
	case o.Verdict == Hold && tr.Request.DryRun != nil && *tr.Request.DryRun:
		o.Verdict, o.dryRun = Allow, true
	}
	return o, nil
}

// matchedThen counts a rule as matching, by what is recorded.
func (s *trialSet) matchedThen(j *Judgement, name string) {
	if slices.ContainsFunc(j.Matched, func(m RuleMatch) bool { return m.Rule == name }) {
		return
	}
	i := slices.IndexFunc(s.rules, func(r Rule) bool { return r.Name == name })
	verdict := s.rules[i].Verdict
	j.Matched = append(j.Matched, RuleMatch{Rule: name, Verdict: verdict})
	if strictness(verdict) > strictness(j.Verdict) {
		j.Verdict, j.Rule, j.Failed = verdict, name, false
	}
}

// Run tries the rules on each request. An error of requests that is
// ErrUnreadable is counted; any other ends the trial with it.
func (t *Trial) Run(ctx context.Context, requests iter.Seq2[TrialRequest, error]) (*TrialReport, error) {
	c := newTrialCount(t)
	for tr, err := range requests {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, ErrUnreadable) {
			c.unreadable(err)
			continue
		}
		if err != nil {
			return nil, err
		}
		if tr.NotJudged != "" {
			c.report.NotJudged[tr.NotJudged]++
			continue
		}
		after, err := t.set.judge(ctx, tr)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			c.report.NotJudged["could not be judged: such a request is refused"]++
			continue
		}
		c.add(tr, after)
		if t.present == nil {
			continue
		}
		before, err := t.present.judge(ctx, tr)
		if err != nil {
			return nil, fmt.Errorf("judge by the present rules: %w", err)
		}
		c.compare(tr, before, after)
	}
	return c.done(), ctx.Err()
}

// trialCount is a report in the making.
type trialCount struct {
	report *TrialReport
	rules  map[string]*ruleCount
	order  []string // of the config, then of appearance
	all    ruleCount
	steps  map[stepKey]*TrialStep
}

type ruleCount struct {
	TrialRule
	agents, runs map[string]int
}

type stepKey struct {
	from, fromRule, to, toRule string
}

func newTrialCount(t *Trial) *trialCount {
	c := &trialCount{report: &TrialReport{NotJudged: map[string]int{}, ApproximateBecause: map[string]int{}}, rules: map[string]*ruleCount{}}
	for _, r := range t.set.rules {
		c.rule(r.Name).Verdict = r.Verdict
	}
	if t.present != nil {
		c.steps = map[stepKey]*TrialStep{}
		c.report.Comparison = &TrialComparison{}
	}
	return c
}

func (c *trialCount) rule(name string) *ruleCount {
	r := c.rules[name]
	if r == nil {
		r = &ruleCount{TrialRule: TrialRule{Rule: name}}
		c.rules[name] = r
		c.order = append(c.order, name)
	}
	return r
}

func (c *trialCount) unreadable(err error) {
	c.report.Unreadable++
	if len(c.report.UnreadableExamples) < 20 {
		c.report.UnreadableExamples = append(c.report.UnreadableExamples, short(err.Error()))
	}
}

func (c *trialCount) add(tr TrialRequest, o outcome) {
	c.report.Judged++
	switch o.Verdict {
	case Allow:
		c.report.Allowed++
	case Hold:
		c.report.Held++
	default:
		c.report.Denied++
	}
	if o.dryRun {
		c.report.DryRun++
	}
	approximate := len(o.undecided) > 0
	if approximate {
		c.report.Approximate++
		if o.Verdict == Allow && !o.dryRun && c.mayBeStricter(o.undecided) {
			c.report.Undecided++
		}
		for _, why := range reasons(tr.Unknown) {
			c.report.ApproximateBecause[why]++
		}
	}
	c.all.seen(tr)
	example := exampleOf(tr)
	matched := false
	for _, m := range o.Matched {
		r := c.rule(m.Rule)
		r.Verdict = m.Verdict
		r.Matched++
		if m.Failed {
			r.Failed++
		}
		matched = matched || m.Rule == o.Rule
		r.seen(tr)
		r.example(example, o.undecided[m.Rule])
	}
	for name := range o.undecided {
		c.rule(name).Approximate++
	}
	r := c.rule(o.Rule)
	if !matched { // the default, or a built-in check
		r.Verdict = o.Verdict
		r.Matched++
		r.seen(tr)
		r.example(example, false)
	}
	if o.dryRun {
		return
	}
	switch o.Verdict {
	case Hold:
		r.Held++
	case Deny:
		r.Denied++
	}
}

// mayBeStricter reports whether one of the rules, which may match, does more than allow.
func (c *trialCount) mayBeStricter(undecided map[string]bool) bool {
	for name := range undecided {
		if c.rule(name).Verdict != Allow {
			return true
		}
	}
	return false
}

// seen counts the run and the agent.
func (r *ruleCount) seen(tr TrialRequest) {
	if r.agents == nil {
		r.agents, r.runs = map[string]int{}, map[string]int{}
	}
	count := func(m map[string]int, key string) {
		if _, known := m[key]; known || len(m) < maxCounted {
			m[key]++
		}
	}
	count(r.agents, tr.Agent.User)
	if tr.Agent.Run != "" {
		count(r.runs, tr.Agent.Issuer+"\x00"+tr.Agent.Run)
	}
}

func (r *ruleCount) example(e TrialExample, approximate bool) {
	if len(r.Examples) < maxExamples {
		e.Approximate = approximate
		r.Examples = append(r.Examples, e)
	}
}

func exampleOf(tr TrialRequest) TrialExample {
	e := TrialExample{Agent: short(tr.Agent.User), Run: short(tr.Agent.Run), Source: short(tr.Source)}
	if r, err := open(tr.Request, tr.Agent); err == nil {
		e.Action = short(r.action())
	}
	if !tr.At.IsZero() {
		e.At = &tr.At
	}
	return e
}

// short makes what an agent may have written safe to show, and bounded.
func short(s string) string {
	const most = 256
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strings.NewReplacer("\n", `\n`, "\t", `\t`).Replace(visible(s))
}

func reasons(unknown map[Part]string) []string {
	var out []string
	for part, why := range unknown {
		if part != PartOptions && part != PartKind && part != PartUser {
			out = append(out, why)
		}
	}
	if len(out) == 0 {
		for _, why := range unknown {
			out = append(out, why)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// compare counts a request on which the two sets don't agree.
func (c *trialCount) compare(tr TrialRequest, before, after outcome) {
	approximate := len(before.undecided)+len(after.undecided) > 0
	if before.Verdict == after.Verdict && before.dryRun == after.dryRun && before.Rule == after.Rule {
		c.report.Comparison.Same++
		return
	}
	cmp := c.report.Comparison
	cmp.Changed++
	switch {
	case before.Verdict == after.Verdict:
		cmp.OnlyRule++
	case after.Verdict == Hold && before.Verdict == Allow:
		cmp.NewlyHeld++
	case after.Verdict == Deny:
		cmp.NewlyDenied++
	case after.Verdict == Hold:
		cmp.HeldNotDenied++
	case before.Verdict == Hold:
		cmp.NoLongerHeld++
	default:
		cmp.NoLongerDenied++
	}
	key := stepKey{string(before.Verdict), before.Rule, string(after.Verdict), after.Rule}
	s := c.steps[key]
	if s == nil {
		if len(c.steps) >= maxSteps {
			cmp.MoreSteps = true
			return
		}
		s = &TrialStep{From: before.Verdict, FromRule: before.Rule, To: after.Verdict, ToRule: after.Rule}
		c.steps[key] = s
	}
	s.Requests++
	if approximate {
		s.Approximate++
	}
	if len(s.Examples) < maxExamples {
		e := exampleOf(tr)
		e.Approximate = approximate
		s.Examples = append(s.Examples, e)
	}
}

func (c *trialCount) done() *TrialReport {
	r := c.report
	r.Agents, r.Runs = len(c.all.agents), len(c.all.runs)
	for _, name := range c.order {
		rule := c.rules[name]
		if rule.Matched == 0 && rule.Approximate == 0 {
			r.NeverMatched = append(r.NeverMatched, name)
			continue
		}
		rule.Agents, rule.Runs = len(rule.agents), len(rule.runs)
		for user, n := range rule.agents {
			rule.TopAgents = append(rule.TopAgents, TrialAgent{Agent: short(user), Requests: n})
		}
		slices.SortFunc(rule.TopAgents, func(a, b TrialAgent) int {
			return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Agent, b.Agent))
		})
		rule.TopAgents = slices.Clip(rule.TopAgents[:min(len(rule.TopAgents), maxTopAgents)])
		r.Rules = append(r.Rules, rule.TrialRule)
	}
	for _, s := range c.steps {
		r.Comparison.Steps = append(r.Comparison.Steps, *s)
	}
	if r.Comparison != nil {
		slices.SortFunc(r.Comparison.Steps, func(a, b TrialStep) int {
			return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.FromRule, b.FromRule), cmp.Compare(a.ToRule, b.ToRule),
				cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
		})
	}
	return r
}

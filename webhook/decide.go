package webhook

import (
	"slices"
	"strings"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// finding is what one rule said of a request.
type finding struct {
	rule *rule
	// failed means that the rule could not be evaluated.
	failed bool
}

// decision is the verdict on a request, and the rule that gave it.
type decision struct {
	verdict Verdict
	rule    *rule // nil where no rule matched and the default decided
	failed  bool
	// others are the other rules of the same verdict.
	others []finding
}

// decide picks the strictest: deny over hold over allow; within one verdict one
// that was evaluated over one that failed, then what puts more at risk, then what
// asks for more people, then the first. A rule that could not be evaluated
// counts as if it had matched; an allow rule that failed allows nothing.
// fallback is the verdict where nothing matched.
func decide(findings []finding, fallback Verdict) decision {
	var best finding
	for _, f := range findings {
		if (!f.failed || f.rule.Verdict != Allow) && (best.rule == nil || before(f, best)) {
			best = f
		}
	}
	if best.rule == nil {
		return decision{verdict: fallback}
	}
	d := decision{verdict: best.rule.Verdict, rule: best.rule, failed: best.failed}
	for _, f := range findings {
		if f.rule != best.rule && f.rule.Verdict == d.verdict {
			d.others = append(d.others, f)
		}
	}
	return d
}

// before reports whether a decides rather than b, which comes earlier.
func before(a, b finding) bool {
	if x, y := strictness(a.rule.Verdict), strictness(b.rule.Verdict); x != y {
		return x > y
	}
	if a.failed != b.failed {
		return b.failed
	}
	if x, y := slices.Index(risks, a.rule.Risk), slices.Index(risks, b.rule.Risk); x != y {
		return x > y
	}
	return a.rule.Quorum > b.rule.Quorum
}

// risks are in their order.
var risks = []v1alpha1.Risk{"low", "medium", "high", "critical"}

// terms are the rule under which a request is held. Where several hold it, an
// agent could else choose who decides by what it adds: of each term the
// strictest stands, and people are told all the rules.
func (d decision) terms() Rule {
	t := Rule{Name: defaultRuleName, Approvers: []string{DefaultApprovers}}.withDefaults()
	if d.rule != nil {
		t = d.rule.Rule
	}
	t.Message += failedText(d.failed)
	var also []string
	for _, f := range d.others {
		o := f.rule.Rule
		if both := inBoth(t.Approvers, o.Approvers); len(both) > 0 {
			t.Approvers = both
		}
		t.BreakGlass = inBoth(t.BreakGlass, o.BreakGlass)
		t.Quorum = max(t.Quorum, o.Quorum)
		t.OwnerMayDecide = t.OwnerMayDecide && o.OwnerMayDecide
		t.TimeToLive.Duration = min(t.TimeToLive.Duration, o.TimeToLive.Duration)
		what := o.Name + " (" + string(o.Risk) + failedText(f.failed) + ")"
		if o.Message != "" {
			what += ": " + o.Message
		}
		also = append(also, what)
	}
	if len(also) > 0 {
		if t.Message != "" {
			t.Message += "; "
		}
		t.Message = shortened(t.Message+"also held by "+strings.Join(also, "; "), maxMessage)
	}
	return t
}

// maxMessage bounds what is said where a thousand rules hold one request.
const maxMessage = 8 << 10

// inBoth are the items of a that are in b, too.
func inBoth(a, b []string) []string {
	var both []string
	for _, v := range a {
		if slices.Contains(b, v) {
			both = append(both, v)
		}
	}
	return both
}

func strictness(v Verdict) int {
	switch v {
	case Allow:
		return 0
	case Hold:
		return 1
	default:
		return 2
	}
}

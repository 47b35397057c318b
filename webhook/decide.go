package webhook

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
}

// decide picks the strictest: deny over hold over allow; within one verdict the
// first rule, but one that was evaluated over one that failed. A rule that
// could not be evaluated counts as if it had matched; an allow rule that
// failed allows nothing. fallback is the verdict where nothing matched.
func decide(findings []finding, fallback Verdict) decision {
	best := decision{verdict: fallback}
	matched := false
	for _, f := range findings {
		if f.failed && f.rule.Verdict == Allow {
			continue
		}
		d := decision{verdict: f.rule.Verdict, rule: f.rule, failed: f.failed}
		switch {
		case !matched, strictness(d.verdict) > strictness(best.verdict):
			best, matched = d, true
		case d.verdict == best.verdict && best.failed && !d.failed:
			best = d
		}
	}
	return best
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

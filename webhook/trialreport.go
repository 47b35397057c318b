package webhook

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// TrialReport is what rules would have done to requests of the past. No string
// in it holds a control character.
type TrialReport struct {
	// Judged counts the requests that the rules were asked about: the sum of
	// Allowed, Held and Denied.
	Judged  int `json:"judged"`
	Allowed int `json:"allowed"`
	Held    int `json:"held"`
	Denied  int `json:"denied"`
	// DryRun counts those among Allowed that a rule holds but that were dry runs.
	DryRun int `json:"dryRun"`
	// Approximate counts those among Judged of which a part that some rule looks
	// at is not known as it was; ApproximateBecause says why, a request may have
	// more than one reason.
	Approximate int `json:"approximate"`
	// Undecided counts those among Allowed that a rule would hold or deny if it
	// matched what is not known.
	Undecided          int            `json:"undecided"`
	ApproximateBecause map[string]int `json:"approximateBecause,omitempty"`
	// NotJudged counts requests that no rule was asked about, by reason.
	NotJudged map[string]int `json:"notJudged,omitempty"`
	// Unreadable counts what is no request; a few are named.
	Unreadable         int      `json:"unreadable"`
	UnreadableExamples []string `json:"unreadableExamples,omitempty"`
	// Agents and Runs count the different ones among Judged.
	Agents int `json:"agents"`
	Runs   int `json:"runs"`
	// Rules are those that matched something, or could have, in their order.
	Rules []TrialRule `json:"rules"`
	// NeverMatched are the rules that matched nothing, for sure.
	NeverMatched []string `json:"neverMatched,omitempty"`
	// Comparison is there where two sets of rules were tried.
	Comparison *TrialComparison `json:"comparison,omitempty"`
}

// TrialRule is what one rule would have done. "default" stands for what no rule
// matched, "tipstaff-objects", "tipstaff-grants" and "no-run" for what Tipstaff
// refuses whatever the rules are.
type TrialRule struct {
	Rule    string  `json:"rule"`
	Verdict Verdict `json:"verdict"`
	// Held and Denied count requests that this rule decided.
	Held   int `json:"held"`
	Denied int `json:"denied"`
	// Matched counts requests that it matched, also where a stricter rule decided.
	Matched int `json:"matched"`
	// Failed counts those among Matched that it could not be evaluated on.
	Failed int `json:"failed"`
	// Approximate counts requests of which it can't be said for sure whether it
	// matches; among Matched or not.
	Approximate int            `json:"approximate"`
	Agents      int            `json:"agents"`
	Runs        int            `json:"runs"`
	TopAgents   []TrialAgent   `json:"topAgents,omitempty"`
	Examples    []TrialExample `json:"examples,omitempty"`
}

// TrialAgent is an agent and how many of its requests a rule matched.
type TrialAgent struct {
	Agent    string `json:"agent"`
	Requests int    `json:"requests"`
}

// TrialExample is one request.
type TrialExample struct {
	Action string     `json:"action"`
	Agent  string     `json:"agent"`
	Run    string     `json:"run,omitempty"`
	At     *time.Time `json:"at,omitempty"`
	// Source is a file's name or the id of an audit event.
	Source      string `json:"source"`
	Approximate bool   `json:"approximate,omitempty"`
}

// TrialComparison is what another set of rules would have changed.
type TrialComparison struct {
	// Same counts requests with the same verdict by a rule of the same name,
	// Changed all others; the five after it, and OnlyRule, add up to Changed.
	Same           int `json:"same"`
	Changed        int `json:"changed"`
	NewlyHeld      int `json:"newlyHeld"`
	NewlyDenied    int `json:"newlyDenied"`
	HeldNotDenied  int `json:"heldNotDenied"`
	NoLongerHeld   int `json:"noLongerHeld"`
	NoLongerDenied int `json:"noLongerDenied"`
	// OnlyRule counts those with the same verdict by another rule.
	OnlyRule int         `json:"onlyRule"`
	Steps    []TrialStep `json:"steps,omitempty"`
	// MoreSteps says that there are more kinds of steps than are listed.
	MoreSteps bool `json:"moreSteps,omitempty"`
}

// TrialStep are the requests that go from one rule's verdict to another's.
type TrialStep struct {
	From        Verdict        `json:"from"`
	FromRule    string         `json:"fromRule"`
	To          Verdict        `json:"to"`
	ToRule      string         `json:"toRule"`
	Requests    int            `json:"requests"`
	Approximate int            `json:"approximate"`
	Examples    []TrialExample `json:"examples,omitempty"`
}

// WriteText writes the report for a person to read.
func (r *TrialReport) WriteText(w io.Writer) error {
	tw := &errWriter{w: w}
	of := func(n int) string {
		if r.Judged == 0 {
			return fmt.Sprint(n)
		}
		return fmt.Sprintf("%d (%.1f%%)", n, 100*float64(n)/float64(r.Judged))
	}
	fmt.Fprintf(tw, "%d requests judged, of %d agents in %d runs: %s allowed, %s held, %s denied.\n",
		r.Judged, r.Agents, r.Runs, of(r.Allowed), of(r.Held), of(r.Denied))
	if r.Undecided > 0 {
		fmt.Fprintf(tw, "%d of the allowed ones may be held or denied: see APPROX.\n", r.Undecided)
	}
	if r.DryRun > 0 {
		fmt.Fprintf(tw, "%d of the allowed ones are dry runs of what is held.\n", r.DryRun)
	}
	fmt.Fprintf(tw, "%d judged exactly, %d approximately.\n", r.Judged-r.Approximate, r.Approximate)
	writeReasons(tw, "approximate", r.ApproximateBecause)
	writeReasons(tw, "not judged", r.NotJudged)
	if r.Unreadable > 0 {
		fmt.Fprintf(tw, "%d can't be read:\n", r.Unreadable)
		for _, e := range r.UnreadableExamples {
			fmt.Fprintf(tw, "  %s\n", e)
		}
	}
	if len(r.Rules) > 0 {
		fmt.Fprintln(tw)
		tab := tabwriter.NewWriter(tw, 0, 8, 2, ' ', 0)
		fmt.Fprintln(tab, "RULE\tVERDICT\tHELD\tDENIED\tMATCHED\tFAILED\tAPPROX\tRUNS\tAGENTS")
		for _, t := range r.Rules {
			fmt.Fprintf(tab, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", visible(t.Rule), t.Verdict, t.Held, t.Denied, t.Matched, t.Failed, t.Approximate, t.Runs, t.Agents)
		}
		_ = tab.Flush() // tw keeps the error
	}
	for _, t := range r.Rules {
		if t.Rule == defaultRuleName && t.Verdict == Allow || t.Matched == 0 {
			continue
		}
		fmt.Fprintf(tw, "\n%s:\n", visible(t.Rule))
		for _, a := range t.TopAgents {
			fmt.Fprintf(tw, "  %d by %s\n", a.Requests, a.Agent)
		}
		writeExamples(tw, t.Examples)
	}
	if len(r.NeverMatched) > 0 {
		fmt.Fprintf(tw, "\nNever matched: %s\n", visible(strings.Join(r.NeverMatched, ", ")))
	}
	if c := r.Comparison; c != nil {
		fmt.Fprintf(tw, "\nAgainst the present rules: %d newly held, %d newly denied, %d held and no longer denied, %d no longer held, %d no longer denied, %d by another rule only, %d the same.\n",
			c.NewlyHeld, c.NewlyDenied, c.HeldNotDenied, c.NoLongerHeld, c.NoLongerDenied, c.OnlyRule, c.Same)
		for _, s := range c.Steps {
			approximate := ""
			if s.Approximate > 0 {
				approximate = fmt.Sprintf(", %d of them approximately", s.Approximate)
			}
			fmt.Fprintf(tw, "\n%d from %s (%s) to %s (%s)%s:\n", s.Requests, s.From, visible(s.FromRule), s.To, visible(s.ToRule), approximate)
			writeExamples(tw, s.Examples)
		}
		if c.MoreSteps {
			fmt.Fprintln(tw, "\n(more kinds of changes than are listed)")
		}
	}
	return tw.err
}

func writeReasons(w io.Writer, what string, counts map[string]int) {
	for _, why := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(w, "  %d %s: %s\n", counts[why], what, visible(why))
	}
}

func writeExamples(w io.Writer, examples []TrialExample) {
	for _, e := range examples {
		at, note := "", ""
		if e.At != nil {
			at = e.At.UTC().Format("2006-01-02 15:04:05 ")
		}
		if e.Approximate {
			note = ", approximate"
		}
		fmt.Fprintf(w, "  e.g. %s%s (%s%s)\n", at, e.Action, e.Source, note)
	}
}

// errWriter keeps the first error, so that a report is written without asking at each line.
type errWriter struct {
	w   io.Writer
	err error
}

func (e *errWriter) Write(b []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	n, err := e.w.Write(b)
	e.err = err
	return n, err
}

package schema

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

const (
	dayTime   = "2006-01-02 15:04:05"
	clockTime = "15:04:05.000"
	clockOnly = "15:04:05"
)

// line is one request as a person sees it, or one held request with all its
// retries.
type line struct {
	Event    // the last of them
	from     time.Time
	held     int
	lastHeld time.Time
	decided  bool
}

// collapse makes one line of a held request, its retries and its outcome.
// Requests belong together when they name the same approval; once its outcome
// is there, a later one with that approval is a line of its own.
func collapse(events []Event) []line {
	lines := make([]line, 0, len(events))
	open := map[string]int{} // approval's name to its line
	for _, ev := range events {
		approval := ev.Cluster + "/" + ev.Approval
		i, waits := open[approval]
		if ev.Approval == "" || !waits {
			lines = append(lines, line{from: ev.Received})
			i = len(lines) - 1
			open[approval] = i
		}
		l := &lines[i]
		l.Event = ev
		if ev.Verdict == "held" {
			l.held++
			l.lastHeld = ev.Received
		} else {
			l.decided = true
			delete(open, approval)
		}
	}
	return lines
}

// outcome says in words what the webhook decided.
func (l *line) outcome() string {
	var parts []string
	if l.held > 0 {
		text := "held " + times(l.held)
		if l.held > 1 {
			text += " " + l.from.UTC().Format(clockOnly) + "–" + l.lastHeld.UTC().Format(clockOnly)
		}
		if !l.decided {
			text += ", not sent again" // what people decided since, this run was never told
		}
		parts = append(parts, text)
	}
	by := ""
	if len(l.Approvers) > 0 {
		by = " by " + strings.Join(l.Approvers, ", ")
	}
	switch l.Verdict {
	case "", "held":
	case "dryRun":
		parts = append(parts, "would be held")
	case "approved", "denied":
		parts = append(parts, l.Verdict+by)
	default:
		parts = append(parts, l.Verdict)
	}
	if l.DecisionReason != "" {
		parts = append(parts, fmt.Sprintf("%q", l.DecisionReason))
	}
	var facts []string
	if l.Rule != "" && l.Verdict != "allowed" {
		facts = append(facts, "rule "+l.Rule)
	}
	if l.Approval != "" {
		facts = append(facts, "approval "+l.Approval)
	}
	if l.Proxied && l.Code == http.StatusSwitchingProtocols && (l.Subresource == "exec" || l.Subresource == "attach") {
		facts = append(facts, "session "+sessionOf(l.AuditID))
	}
	if l.DryRun {
		facts = append(facts, "dry run")
	}
	if l.Truncated {
		facts = append(facts, "body missing")
	}
	text := strings.Join(parts, ", ")
	if len(facts) > 0 {
		text = strings.TrimSpace(text + " (" + strings.Join(facts, ", ") + ")")
	}
	return text
}

// sessionOf gives the session that a proxied request began: the audit id of its
// first try, a UUID, to which later ones add their number.
func sessionOf(auditID string) string {
	const length = len("00000000-0000-0000-0000-000000000000")
	return auditID[:min(len(auditID), length)]
}

// target is what the request was about, as kubectl would say it.
func (e *Event) target() string {
	if e.Resource == "" {
		path, _, _ := strings.Cut(e.URI, "?")
		return path
	}
	kind := e.Resource
	if e.Subresource != "" {
		kind += "/" + e.Subresource
	}
	switch {
	case e.Namespace != "" && e.Name != "" && e.Resource != "namespaces":
		return kind + " " + e.Namespace + "/" + e.Name
	case e.Name != "":
		return kind + " " + e.Name
	case e.Namespace != "":
		return kind + " in " + e.Namespace
	default:
		return kind
	}
}

// WriteTimeline writes what a run did for a person to read: who it was, then a
// line for each request, a held one with all its retries on one. Runs that
// share a name are told apart.
func WriteTimeline(w io.Writer, events []Event) error {
	type key struct{ cluster, issuer, run string }
	var order []key
	runs := map[key][]Event{}
	for _, ev := range events {
		k := key{ev.Cluster, ev.Issuer, ev.Run}
		if runs[k] == nil {
			order = append(order, k)
		}
		runs[k] = append(runs[k], ev)
	}
	for i, k := range order {
		if i > 0 {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		if err := writeRun(w, runs[k]); err != nil {
			return err
		}
	}
	return nil
}

func writeRun(w io.Writer, events []Event) error {
	first := events[0]
	lines := collapse(events)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var sum [4]int // held, approved, denied, failed
	for i := range lines {
		l := &lines[i]
		if l.held > 0 {
			sum[0]++
		}
		switch {
		case l.Verdict == "approved":
			sum[1]++
		case l.Verdict == "denied":
			sum[2]++
		case l.Code >= 400 && l.Verdict != "held":
			sum[3]++
		}
	}
	counts := []string{fmt.Sprintf("%d requests", len(lines))}
	if len(lines) == 1 {
		counts[0] = "1 request"
	}
	for i, what := range []string{"held", "approved", "denied", "failed"} {
		if sum[i] > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", sum[i], what))
		}
	}
	users := make([]string, 0, 1)
	for _, ev := range events {
		if !slices.Contains(users, ev.User) {
			users = append(users, ev.User)
		}
	}
	header := [][2]string{
		{"run", first.Run}, {"agent", strings.Join(users, ", ")}, {"model", first.Model}, {"owner", first.Owner},
		{"task", first.Task}, {"issuer", first.Issuer}, {"profile", first.Profile}, {"cluster", first.Cluster},
		{"time", first.Received.UTC().Format(dayTime) + " – " + span(first.Received, events[len(events)-1].Received) + " UTC"},
		{"did", strings.Join(counts, ", ")},
	}
	for _, h := range header {
		if h[1] != "" {
			fmt.Fprintf(tw, "%s\t%s\n", h[0], clean(h[1]))
		}
	}
	fmt.Fprintln(tw)
	if err := tw.Flush(); err != nil {
		return err
	}
	tw = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	day := ""
	for i := range lines {
		l := &lines[i]
		if d := l.from.UTC().Format(time.DateOnly); d != day {
			if day != "" {
				fmt.Fprintf(tw, "%s\n", d)
			}
			day = d
		}
		code := "-"
		if l.Code != 0 {
			code = fmt.Sprint(l.Code)
		}
		cells := []string{l.from.UTC().Format(clockTime), clean(l.Verb), clean(l.target()), code}
		if outcome := l.outcome(); outcome != "" {
			cells = append(cells, clean(outcome))
		}
		fmt.Fprintln(tw, strings.Join(cells, "\t"))
	}
	return tw.Flush()
}

// WriteRuns writes a table of runs.
func WriteRuns(w io.Writer, runs []Run) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "RUN\tAGENT\tOWNER\tMODEL\tCLUSTER\tFIRST\tLAST\tREQUESTS\tCHANGES\tHELD\tAPPROVED\tDENIED")
	for _, r := range runs {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\n",
			clean(r.Run), clean(r.User), dash(clean(r.Owner)), dash(clean(r.Model)), clean(r.Cluster),
			r.First.UTC().Format(dayTime), r.Last.UTC().Format(dayTime),
			r.Requests, r.Changes, r.Held, r.Approved, r.Denied)
	}
	return tw.Flush()
}

func dash(s string) string { return cmp.Or(s, "-") }

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// span ends a time range: with the day only where it is another one.
func span(from, to time.Time) string {
	if from.UTC().Format(time.DateOnly) == to.UTC().Format(time.DateOnly) {
		return to.UTC().Format(clockOnly)
	}
	return to.UTC().Format(dayTime)
}

// clean makes text that others chose safe to print: names and messages come
// from whoever made the request, and a terminal obeys control characters.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

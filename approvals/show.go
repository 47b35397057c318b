package approvals

import (
	"fmt"
	"io"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// labelColumns is how wide the labels of Show are.
const labelColumns = 12

// Show writes everything about one approval as of now, its difference last.
func (s Screen) Show(w io.Writer, a *v1alpha1.Approval, now time.Time) error {
	for _, f := range facts(a, now) {
		if f.text == "" {
			continue
		}
		lead := f.label + ":"
		if f.label == "" {
			lead = ""
		}
		paint := ""
		if f.loud {
			paint = sgrY
		}
		lead += strings.Repeat(" ", max(1, labelColumns-len(lead)))
		if err := s.writeLine(w, paint, lead, f.text); err != nil {
			return err
		}
	}
	return s.ShowDiff(w, a)
}

// ShowDiff writes the change that an approval is about, and says where it is not
// the whole change.
func (s Screen) ShowDiff(w io.Writer, a *v1alpha1.Approval) error {
	head := "Change:"
	if a.Spec.Diff == "" {
		head += strings.Repeat(" ", labelColumns-len(head)) + "no content: the action says it all"
	}
	if err := s.writeLine(w, "", "", head); err != nil {
		return err
	}
	cut := ""
	if kept := int64(len(a.Spec.Diff)); a.Spec.DiffBytes > kept {
		cut = fmt.Sprintf("NOT ALL OF IT: what follows are %d of the change's %d bytes", kept, a.Spec.DiffBytes)
		if err := s.writeLine(w, sgrY, "", cut); err != nil {
			return err
		}
	}
	return s.WriteDiff(w, a.Spec.Diff)
}

// fact is one line of Show.
type fact struct {
	label, text string
	loud        bool
}

func facts(a *v1alpha1.Approval, now time.Time) []fact {
	sp, st := &a.Spec, &a.Status
	fs := []fact{
		{label: "Approval", text: a.Name},
		{label: "Phase", text: phaseLine(a, now)},
		{label: "Action", text: sp.Action},
		{label: "Request", text: requestLine(&sp.Request)},
		{label: "Options", text: sp.Request.Options},
		{label: "Risk", text: string(sp.Risk)},
		{label: "Rule", text: sp.Rule},
		{label: "Message", text: sp.Message},
		{label: "Agent", text: sp.Agent.User},
		{label: "Run", text: sp.Agent.Run},
		{label: "Issuer", text: sp.Agent.Issuer},
		{label: "Model", text: sp.Agent.Model},
		{label: "Owner", text: sp.Agent.Owner},
		{label: "Task", text: sp.Agent.Task},
		{label: "Approvers", text: approversLine(sp)},
	}
	if len(sp.BreakGlass) > 0 {
		fs = append(fs, fact{label: "Break-glass", text: "one of group " + strings.Join(sp.BreakGlass, ", ") + " alone, with a reason"})
	}
	fs = append(fs, fact{label: "Asked", text: clock(a.CreationTimestamp.Time)})
	for _, d := range st.Decisions {
		fs = append(fs, decisionFact(a, d))
	}
	if u := st.Use; u != nil {
		text := "at " + clock(u.At.Time)
		if u.Tries > 0 {
			text += fmt.Sprintf(", let through %d times, since the API server had not carried it out before", u.Tries+1)
		}
		fs = append(fs, fact{label: "Used", text: text}, outcomeFact(a))
	}
	if c := st.Cancelled; c != nil {
		fs = append(fs, fact{label: "Cancelled", text: "at " + clock(c.At.Time) + ", since the run that asked is revoked: " + c.Reason})
	}
	return fs
}

func phaseLine(a *v1alpha1.Approval, now time.Time) string {
	p := State(a, now)
	text := fmt.Sprintf("%s, %d of %d approvals", p, Votes(a), a.Spec.Quorum)
	expires := a.Spec.ExpiresAt.Time
	switch {
	case p == v1alpha1.PhaseExpired:
		return text + ", expired at " + clock(expires)
	case Final(p):
		return text
	}
	return text + ", expires in " + duration.HumanDuration(expires.Sub(now)) + " at " + clock(expires)
}

func requestLine(r *v1alpha1.Request) string {
	what := r.Resource
	if r.Subresource != "" {
		what += "/" + r.Subresource
	}
	version := r.Version
	if r.Group != "" {
		version = r.Group + "/" + version
	}
	text := r.Operation + " " + what + " (" + version + ")"
	if r.Name != "" {
		text += " " + r.Name
	}
	if r.Namespace != "" && r.Resource != "namespaces" { // a namespace's request says its own name twice
		text += " in namespace " + r.Namespace
	}
	return text
}

func approversLine(sp *v1alpha1.ApprovalSpec) string {
	text := fmt.Sprintf("%d of group %s", sp.Quorum, strings.Join(sp.Approvers, ", "))
	switch {
	case sp.Agent.Owner == "":
	case sp.OwnerMayDecide:
		text += "; the run's owner too"
	default:
		text += "; not the run's owner"
	}
	return text
}

func decisionFact(a *v1alpha1.Approval, d v1alpha1.Decision) fact {
	f := fact{label: "Approved", text: "by " + d.By + " via " + d.Via + " at " + clock(d.At.Time)}
	if d.Verdict == v1alpha1.VerdictDeny {
		f.label = "Denied"
	}
	if d.BreakGlass {
		f.text, f.loud = "BREAK-GLASS "+f.text, true
	}
	if d.Reason != "" {
		f.text += ": " + d.Reason
	}
	if why := mayNotDecide(a, d.By); why != "" {
		f.text, f.loud = f.text+" (does not count: "+why+")", true
	}
	return f
}

func outcomeFact(a *v1alpha1.Approval) fact {
	o := a.Status.Use.Outcome
	switch {
	case o == nil:
		return fact{label: "Outcome", text: "not known yet"}
	case o.Code < 400:
		return fact{label: "Outcome", text: fmt.Sprintf("done (%d)", o.Code)}
	}
	text := fmt.Sprintf("the API server answered %d, %s", o.Code, effect(a))
	if o.Message != "" {
		text += ": " + o.Message
	}
	return fact{label: "Outcome", text: text, loud: true}
}

// effect says what is proven of a used approval's request that was answered
// with an error.
func effect(a *v1alpha1.Approval) string {
	switch {
	case !refused(a.Spec.Request, a.Status.Use.Outcome):
		return "it may have taken effect"
	case a.Status.Use.Tries > 0: // an earlier one may have been under way
		return "this last try changed nothing"
	}
	return "nothing was changed"
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }

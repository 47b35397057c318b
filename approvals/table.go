package approvals

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Table writes approvals as a table for a terminal, all at once or row by row as
// they change. Nothing that an agent wrote reaches the terminal as a control
// character. The zero value with its fields set is ready to use.
type Table struct {
	// Out is what is written to.
	Out io.Writer
	// Wide adds owner, issuer, rule and who may decide, and cuts nothing.
	Wide bool
	// Columns is how wide the terminal is; the action is cut to what the others
	// leave of it. Zero is none, and the action is whole.
	Columns int

	widths []int
	action int // how long an action may be; zero is any
}

const (
	// maxCell cuts what an agent made long, so that a row stays one row.
	maxCell = 56
	// actionCell is where the action stands: what the row is about.
	actionCell = 5
	// gap parts two cells.
	gap = 3
)

// WriteTable writes approvals as a table for a terminal.
func WriteTable(w io.Writer, as []v1alpha1.Approval) error {
	return (&Table{Out: w}).Write(as, time.Now())
}

// Write writes rows as of now. The first call writes the head and settles how
// wide the columns are.
func (t *Table) Write(as []v1alpha1.Approval, now time.Time) error {
	var lines [][]string
	if t.widths == nil {
		lines = append(lines, t.head())
	}
	for i := range as {
		lines = append(lines, t.row(&as[i], now))
	}
	if t.widths == nil {
		t.settle(lines)
	}
	var b strings.Builder
	for _, cells := range lines {
		for i, c := range cells {
			if i == actionCell && t.action > 0 {
				c = shorten(c, t.action)
			}
			b.WriteString(c)
			if i < len(cells)-1 {
				b.WriteString(strings.Repeat(" ", max(0, t.widths[i]-utf8.RuneCountInString(c))+gap))
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(t.Out, b.String())
	return err
}

// settle sets how wide the columns are from the first lines.
func (t *Table) settle(lines [][]string) {
	t.widths = make([]int, len(lines[0]))
	for _, cells := range lines {
		for i, c := range cells {
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(c))
		}
	}
	if t.Wide || t.Columns <= 0 {
		return
	}
	room := t.Columns
	for i, w := range t.widths {
		if i != actionCell {
			room -= w + gap
		}
	}
	t.action = max(room, maxCell)
	t.widths[actionCell] = min(t.widths[actionCell], t.action)
}

func (t *Table) head() []string {
	cells := []string{"NAME", "PHASE", "VOTES", "LEFT", "RISK", "ACTION", "AGENT", "RUN"}
	if t.Wide {
		cells = append(cells, "ISSUER", "OWNER", "RULE", "APPROVERS")
	}
	return append(cells, "AGE")
}

func (t *Table) row(a *v1alpha1.Approval, now time.Time) []string {
	p := State(a, now)
	cells := []string{
		a.Name, string(p), fmt.Sprintf("%d/%d", Votes(a), a.Spec.Quorum), left(a, p, now),
		dash(string(a.Spec.Risk)), a.Spec.Action, a.Spec.Agent.User, a.Spec.Agent.Run,
	}
	if t.Wide {
		cells = append(cells, a.Spec.Agent.Issuer, dash(a.Spec.Agent.Owner), a.Spec.Rule, strings.Join(a.Spec.Approvers, ","))
	}
	cells = append(cells, duration.HumanDuration(now.Sub(a.CreationTimestamp.Time)))
	for i := range cells {
		cells[i] = Plain(cells[i])
		if i > 0 && i != actionCell && !t.Wide {
			cells[i] = shorten(cells[i], maxCell)
		}
	}
	return cells
}

// left is how long an approval can still be decided or used.
func left(a *v1alpha1.Approval, p v1alpha1.Phase, now time.Time) string {
	if Final(p) {
		return "-"
	}
	return duration.HumanDuration(a.Spec.ExpiresAt.Sub(now))
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func shorten(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// writeRow writes one row of a table that is aligned when all are there.
func writeRow(w *tabwriter.Writer, cells ...string) error {
	for i := range cells {
		cells[i] = Plain(cells[i])
	}
	_, err := fmt.Fprintln(w, strings.Join(cells, "\t"))
	return err
}

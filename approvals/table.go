package approvals

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// WriteTable writes approvals as a table for a terminal.
// Nothing that an agent wrote reaches the terminal as a control character.
func WriteTable(w io.Writer, as []v1alpha1.Approval) error {
	now := time.Now()
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	if _, err := fmt.Fprintln(tw, "NAME\tPHASE\tRISK\tACTION\tAGENT\tRUN\tRULE\tAGE"); err != nil {
		return err
	}
	for i := range as {
		a := &as[i]
		err := writeRow(tw, a.Name, string(State(a, now)), string(a.Spec.Risk), a.Spec.Action, a.Spec.Agent.User, a.Spec.Agent.Run, a.Spec.Rule,
			duration.HumanDuration(now.Sub(a.CreationTimestamp.Time)))
		if err != nil {
			return err
		}
	}
	return tw.Flush()
}

func writeRow(w io.Writer, cells ...string) error {
	for i := range cells {
		cells[i] = plain(cells[i])
	}
	_, err := fmt.Fprintln(w, strings.Join(cells, "\t"))
	return err
}

// plain makes control and format characters visible.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

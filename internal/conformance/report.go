package conformance

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Result is what one check says.
type Result string

// The results of a check.
const (
	// OK means that the answer held the object and nothing of the value.
	OK Result = "ok"
	// Leak means that the value was in the answer.
	Leak Result = "LEAK"
	// Overwritten means that a mask was written over the real value.
	Overwritten Result = "OVERWRITTEN"
	// Skipped means that nothing could be read.
	Skipped Result = "skipped"
)

// Cell is one check: a hiding place, read one way.
type Cell struct {
	Place  string `json:"place"`
	Read   string `json:"read"`
	Result Result `json:"result"`
	// Path is what was asked for.
	Path string `json:"path"`
	// Where is the field that shows the value, Form how it stands there, and
	// Reproduce a command that shows it, with the token left out.
	Where     string `json:"where,omitempty"`
	Form      string `json:"form,omitempty"`
	Reproduce string `json:"reproduce,omitempty"`
	// Reason says why a check was skipped, or what there was instead of the object.
	Reason string `json:"reason,omitempty"`
}

// Report is what a run found. It holds no planted value.
type Report struct {
	Namespace string `json:"namespace"`
	// OK, Leaks, Overwritten and Skipped count the checks.
	OK          int `json:"ok"`
	Leaks       int `json:"leaks"`
	Overwritten int `json:"overwritten"`
	Skipped     int `json:"skipped"`
	// Unread are the places of which nothing was read.
	Unread []string `json:"unread,omitempty"`
	Cells  []Cell   `json:"checks"`
}

func (r *run) report(namespace string) *Report {
	rep := &Report{Namespace: namespace, Cells: r.cells}
	order := map[string]int{} // the tables' own: what is simplest to see again comes first
	for i, rd := range slices.Concat(objectReads, listReads) {
		order[rd.name] = i + 1
	}
	slices.SortStableFunc(rep.Cells, func(a, b Cell) int {
		return cmp.Or(strings.Compare(a.Place, b.Place), order[a.Read]-order[b.Read], strings.Compare(a.Read+" "+a.Path, b.Read+" "+b.Path))
	})
	read := map[string]bool{}
	for _, c := range rep.Cells {
		switch c.Result {
		case OK:
			rep.OK++
		case Leak:
			rep.Leaks++
		case Overwritten:
			rep.Overwritten++
		case Skipped:
			rep.Skipped++
		}
		read[c.Place] = read[c.Place] || c.Result != Skipped
	}
	for _, place := range sortedKeys(read) {
		if !read[place] {
			rep.Unread = append(rep.Unread, place)
		}
	}
	return rep
}

// Summary is the report in one line.
func (rep *Report) Summary() string {
	s := fmt.Sprintf("%d checks: %d ok, %d leaks, %d overwritten, %d skipped", len(rep.Cells), rep.OK, rep.Leaks, rep.Overwritten, rep.Skipped)
	if len(rep.Unread) > 0 {
		s += "; not read at all: " + strings.Join(rep.Unread, ", ")
	}
	return s
}

// Write prints the report for people: a line a place, then a leak of each place,
// then why checks were skipped. With all it prints every leak and every check.
func (rep *Report) Write(w io.Writer, all bool) error {
	if err := rep.writePlaces(w); err != nil {
		return err
	}
	rep.writeLeaks(w, all)
	rep.writeSkipped(w)
	if all {
		fmt.Fprintln(w)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, "PLACE\tREAD\tRESULT\tPATH\tREASON")
		for _, c := range rep.Cells {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", c.Place, c.Read, c.Result, c.Path, c.Reason)
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\n%s\n", rep.Summary())
	return err
}

// writeLeaks prints the leaks, or one of each place and kind.
func (rep *Report) writeLeaks(w io.Writer, all bool) {
	shown := map[string]bool{}
	for _, c := range rep.Cells {
		key := c.Place + string(c.Result)
		if c.Result != Leak && c.Result != Overwritten || shown[key] && !all {
			continue
		}
		shown[key] = true
		fmt.Fprintf(w, "\n%s %s by %s\n  %s: %s\n  %s\n", c.Result, c.Place, c.Read, c.Where, c.Form, c.Reproduce)
	}
}

func (rep *Report) writePlaces(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "PLACE\tOK\tLEAK\tOVERWRITTEN\tSKIPPED\tLEAKS BY")
	for i := 0; i < len(rep.Cells); {
		place, n := rep.Cells[i].Place, map[Result]int{}
		var by []string
		for ; i < len(rep.Cells) && rep.Cells[i].Place == place; i++ {
			c := rep.Cells[i]
			n[c.Result]++
			if (c.Result == Leak || c.Result == Overwritten) && !slices.Contains(by, c.Read) {
				by = append(by, c.Read)
			}
		}
		fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%d\t%s\n", place, n[OK], n[Leak], n[Overwritten], n[Skipped], few(by))
	}
	return tw.Flush()
}

// few are the first of many.
func few(names []string) string {
	const most = 3
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// writeSkipped prints for each read and kind of refusal how many there were, and
// one of them.
func (rep *Report) writeSkipped(w io.Writer) {
	count, example := map[string]int{}, map[string]string{}
	for _, c := range rep.Cells {
		if c.Result != Skipped {
			continue
		}
		kind, _, _ := strings.Cut(c.Reason, ": ")
		key := c.Read + ": " + kind
		count[key]++
		if example[key] == "" {
			example[key] = c.Read + ": " + c.Reason
		}
	}
	if len(count) == 0 {
		return
	}
	fmt.Fprintln(w, "\nSkipped, with one reason of each kind:")
	for _, k := range sortedKeys(count) {
		fmt.Fprintf(w, "  %4d × %s\n", count[k], example[k])
	}
}

package webhook

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff"

	"github.com/tipstaff-dev/tipstaff/internal/jsontree"
)

const (
	// maxDiffBytes is what an approval keeps of a change, as JSON has it: each
	// write of its status stores it anew, and the API server holds all in memory.
	maxDiffBytes = 64 << 10
	// maxShown and maxShownDepth bound what is shown to people at all: the text
	// of an object grows with both, at the cost of all who share this process.
	maxShown      = 100_000
	maxShownDepth = 100
	// contextLines stand around a change; an item of a list of up to
	// maxItemLines is shown whole, since what it is about may stand anywhere in it.
	contextLines = 3
	maxItemLines = 40
)

// shortStrings are how long a string may be where not all fits, tried in turn.
var shortStrings = []int{16 << 10, 2 << 10, 256}

// showable refuses what is too much to be shown to a person.
func showable(objects ...jsontree.Value) error {
	shown := 0
	for _, o := range objects {
		values, depth := o.Size()
		if depth > maxShownDepth {
			return fmt.Errorf("it is nested deeper than %d levels", maxShownDepth)
		}
		shown += values + bytes.Count(o.Raw(), []byte(`\n`))
	}
	if shown > maxShown {
		return fmt.Errorf("it has more than %d fields and lines", maxShown)
	}
	return nil
}

// diff renders the change from oldObj to newObj as a unified diff of YAML, each
// hunk with the path of its first changed field. Both are normalised and masked
// already. Where the whole doesn't fit, long strings are shown by their start,
// size and hash, metadata comes last, and if need be the end is cut; the last
// line says so with the whole size and hash. wholeBytes is always the whole size.
func diff(oldObj, newObj map[string]any) (text string, wholeBytes int64) {
	whole := render(oldObj, newObj, page{})
	if stored(whole) <= maxDiffBytes {
		return whole, int64(len(whole))
	}
	var short string
	for _, longest := range shortStrings {
		short = render(oldObj, newObj, page{longest: longest, metadataLast: true})
		if stored(short) <= maxDiffBytes-200 {
			break
		}
	}
	text, what := cut(short, maxDiffBytes-200), "shortened"
	if len(text) < len(short) {
		what = "cut"
	}
	return fmt.Sprintf("%s\n... %s here: the whole difference has %d bytes, sha256 %x\n", strings.TrimSuffix(text, "\n"), what, len(whole), sha256.Sum256([]byte(whole))),
		int64(len(whole))
}

// change is one line of a difference.
type change struct {
	kind     byte // ' ', '-' or '+'
	text     string
	old, new int // the number of the line in either, of the next where it isn't in it
}

func render(oldObj, newObj map[string]any, like page) string {
	before, after := like, like
	before.object(oldObj)
	after.object(newObj)
	changes := compare(before.lines, after.lines)
	keep := before.shownOf(changes, &after)
	var b, hunk strings.Builder
	var head *place
	first, oldLines, newLines := change{}, 0, 0
	flush := func() {
		if oldLines+newLines == 0 {
			return
		}
		fmt.Fprintf(&b, "@@ -%s +%s @@", span(first.old, oldLines), span(first.new, newLines))
		if path := head.path(); path != "" && oldObj != nil && newObj != nil {
			b.WriteString(" " + path)
		}
		b.WriteString("\n" + hunk.String())
		hunk.Reset()
		head, oldLines, newLines = nil, 0, 0
	}
	for i, c := range changes {
		if !keep[i] {
			flush()
			continue
		}
		if at := placeOf(c, &before, &after); c.kind != ' ' {
			if head != nil && large(at).path() != large(head).path() {
				flush() // of which item it is would not be seen
			}
			if head == nil {
				head = at
			}
		}
		if oldLines+newLines == 0 {
			first = c
		}
		if c.kind != '+' {
			oldLines++
		}
		if c.kind != '-' {
			newLines++
		}
		hunk.WriteByte(c.kind)
		hunk.WriteString(c.text + "\n")
	}
	flush()
	if b.Len() == 0 {
		return ""
	}
	return "--- before\n+++ after\n" + b.String()
}

// span is a range of a unified diff. An empty one names the line before it.
func span(from, lines int) string {
	switch lines {
	case 0:
		return fmt.Sprintf("%d,0", from)
	case 1:
		return fmt.Sprint(from + 1)
	}
	return fmt.Sprintf("%d,%d", from+1, lines)
}

// compare lines two texts up.
func compare(before, after []string) []change {
	join := func(lines []string) string {
		if len(lines) == 0 {
			return ""
		}
		return strings.Join(lines, "\n") + "\n"
	}
	old := join(before)
	var changes []change
	next := change{}
	add := func(kind byte, text string) {
		for line := range strings.SplitAfterSeq(text, "\n") {
			if line == "" {
				continue // after the last
			}
			changes = append(changes, change{kind, strings.TrimSuffix(line, "\n"), next.old, next.new})
			if kind != '+' {
				next.old++
			}
			if kind != '-' {
				next.new++
			}
		}
	}
	at := 0
	for _, e := range udiff.Lines(old, join(after)) { // in their order, whole lines each
		add(' ', old[at:e.Start])
		add('-', old[e.Start:e.End])
		add('+', e.New)
		at = e.End
	}
	add(' ', old[at:])
	return changes
}

// placeOf is the field that a line is of.
func placeOf(c change, before, after *page) *place {
	if c.kind == '-' {
		return before.of[c.old]
	}
	return after.of[c.new]
}

// large is the innermost item around p that is not shown whole.
func large(p *place) *place {
	for p = p.itemOf(); p != nil && p.to-p.from <= maxItemLines; p = p.in.itemOf() {
	}
	return p
}

// shownOf tells which lines are shown: those that change and what is around them.
func (before *page) shownOf(changes []change, after *page) []bool {
	keep := make([]bool, len(changes))
	oldAt, newAt := make([]int, len(before.lines)+1), make([]int, len(after.lines)+1)
	for i, c := range changes {
		if c.kind != '+' {
			oldAt[c.old] = i
		}
		if c.kind != '-' {
			newAt[c.new] = i
		}
	}
	mark := func(from, to int) {
		for i := max(from, 0); i < min(to, len(keep)); i++ {
			keep[i] = true
		}
	}
	var last *place
	for i, c := range changes {
		if c.kind == ' ' {
			continue
		}
		mark(i-contextLines, i+contextLines+1)
		lines := newAt
		if c.kind == '-' {
			lines = oldAt
		}
		item := placeOf(c, before, after).itemOf()
		for item != nil && item.to-item.from == 1 { // a word in a list says little
			item = item.in.itemOf()
		}
		if item != nil && item != last && item.to-item.from <= maxItemLines {
			mark(lines[item.from], lines[item.to-1]+1)
			last = item
		}
	}
	return keep
}

// stored is how many bytes s has in JSON, as Go writes it.
func stored(s string) (n int) {
	for _, r := range s {
		n += storedRune(r)
	}
	return n
}

func storedRune(r rune) int {
	switch {
	case r == '<' || r == '>' || r == '&' || r < ' ' && r != '\n' && r != '\t' && r != '\r':
		return 6
	case r < ' ' || r == '"' || r == '\\':
		return 2
	case r < 0x80:
		return 1
	case r < 0x800:
		return 2
	case r == '\u2028' || r == '\u2029' || r == utf8.RuneError:
		return 6
	case r < 0x10000:
		return 3
	}
	return 4
}

// cut is the start of s that takes at most so many bytes, up to a line's end, or
// a character's where one line is longer.
func cut(s string, most int) string {
	n := 0
	for i, r := range s {
		if n += storedRune(r); n > most {
			if end := strings.LastIndexByte(s[:i], '\n'); end > 0 {
				return s[:end]
			}
			return s[:i]
		}
	}
	return s
}

// unseen reports whether r shows nothing, or changes how others are shown.
func unseen(r rune) bool {
	if r < 0x80 {
		return r != '\n' && r != '\t' && unicode.IsControl(r)
	}
	return r == '\u2800' || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// visible writes what is not seen (control characters, direction overrides, zero
// width, fillers, variation selectors) as escapes: what an approver reads must be what is there.
func visible(s string) string {
	if !hides(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s { // an invalid byte becomes U+FFFD
		if unseen(r) {
			fmt.Fprintf(&b, "\\u%04x", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

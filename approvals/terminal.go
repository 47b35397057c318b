package approvals

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Screen is what a text is written for.
type Screen struct {
	// Color paints a difference.
	Color bool
	// Width is the terminal's, in columns. Zero means that lines may be of any
	// length: a file or a pipe.
	Width int
}

// SGR sequences, the only escapes that are ever written.
const (
	sgrReset, sgrBold, sgrDim       = "\x1b[0m", "\x1b[1m", "\x1b[2m"
	sgrRed, sgrGreen, sgrCyan, sgrY = "\x1b[31m", "\x1b[32m", "\x1b[36m", "\x1b[33m"
)

// minWidth keeps a line that is broken readable, and broken at all.
const minWidth = 20

// continued starts each further row of a line that is longer than the terminal
// is wide. The terminal's own break would start the row with what an agent
// wrote, which could then look like a line of the difference.
const continued = "↪ "

// maxMarks is how many combining marks one character may carry: enough for every
// living script, too few to paint over the lines around it.
const maxMarks = 3

// hidden reports whether a terminal would not show r as a character of its own:
// controls, direction overrides, line separators, blanks that are no space,
// letters that have no shape, code points that mean nothing.
func hidden(r rune) bool {
	return !unicode.IsPrint(r) || r == '\u2800' ||
		unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// Plain is s for one cell or line of a terminal: what a terminal would not show
// as a character is shown as U+FFFD.
func Plain(s string) string {
	return strings.Map(func(r rune) rune {
		if hidden(r) {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// glyphs cuts a line without its end into what is shown for each character: the
// character, or its escape where a terminal would not show it as one.
func glyphs(line string) []string {
	var out []string
	marks := 0
	for len(line) > 0 {
		r, n := utf8.DecodeRuneInString(line)
		raw := line[:n]
		line = line[n:]
		mark := unicode.In(r, unicode.Mn, unicode.Me)
		if mark {
			marks++
		} else {
			marks = 0
		}
		switch {
		case r == utf8.RuneError && n == 1:
			out = append(out, fmt.Sprintf(`\x%02x`, raw[0]))
		case r == '\t':
			out = append(out, "→   ") // not blanks alone: tabs for spaces are a difference too
		case hidden(r), mark && (marks > maxMarks || len(out) == 0):
			out = append(out, fmt.Sprintf(`\u%04x`, r))
		case mark:
			out[len(out)-1] += raw
		default:
			out = append(out, raw)
		}
	}
	return out
}

// columns is how many columns a glyph takes at the most.
func columns(glyph string) int {
	n := 0
	for _, r := range glyph {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me):
		case r < 0x80 || r == '→':
			n++
		default:
			n += 2 // wide in some terminals; a row that is broken early does no harm
		}
	}
	return n
}

// rows are what a terminal shows for one line that starts with lead, which is
// trusted: rows after the first start with [continued].
func (s Screen) rows(lead, line string) []string {
	gs := glyphs(line)
	if s.Width <= 0 {
		return []string{lead + strings.Join(gs, "")}
	}
	room := max(s.Width, minWidth) - 1 // a full last column breaks the row in some terminals
	var rows []string
	row, used := lead, columns(lead)
	for _, g := range gs {
		if n := columns(g); used+n > room && row != lead && row != continued {
			rows = append(rows, row)
			row, used = continued, columns(continued)+n
		} else {
			used += n
		}
		row += g
	}
	return append(rows, row)
}

// writeLine writes one line, painted where the screen has colours.
func (s Screen) writeLine(w io.Writer, paint, lead, line string) error {
	for _, row := range s.rows(lead, line) {
		if s.Color && paint != "" {
			row = paint + row + sgrReset
		}
		if _, err := fmt.Fprintln(w, row); err != nil {
			return err
		}
	}
	return nil
}

// WriteDiff writes a unified difference. An agent wrote what it is made of: each
// line of diff starts a row with its own sign, no other row does, and nothing in
// it reaches a terminal as anything but characters.
func (s Screen) WriteDiff(w io.Writer, diff string) error {
	if diff == "" {
		return nil
	}
	for i, line := range strings.Split(strings.TrimSuffix(diff, "\n"), "\n") {
		if err := s.writeLine(w, paintOf(i, line), "", line); err != nil {
			return err
		}
	}
	return nil
}

// paintOf is the colour of the line at i of a difference.
func paintOf(i int, line string) string {
	switch {
	case i < 2 && (strings.HasPrefix(line, "--- ") || strings.HasPrefix(line, "+++ ")):
		return sgrBold
	case strings.HasPrefix(line, "+"):
		return sgrGreen
	case strings.HasPrefix(line, "-"):
		return sgrRed
	case strings.HasPrefix(line, "@@"):
		return sgrCyan
	case strings.HasPrefix(line, `\`):
		return sgrDim
	case strings.HasPrefix(line, "... cut here"):
		return sgrY
	}
	return ""
}

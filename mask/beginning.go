package mask

import (
	"bytes"
	"regexp/syntax"
	"slices"
	"strings"
)

// beginning is what each text begins with that one way of a format's expression
// matches: a literal text that holds the keyword, then at least so many bytes of
// a class. It rules out most places where a keyword stands by chance.
type beginning struct {
	text   string
	fold   bool // in any case
	before int  // bytes of text before the keyword
	class  *[256]bool
	least  int
}

// maxBeginnings bounds in how many ways an expression may begin.
const maxBeginnings = 64

// beginningsOf gives what all that expr matches begins with and that holds the
// keyword at. What holds another one of keywords is found by that. It gives nil
// where some of it may hold none.
func beginningsOf(expr string, keywords []string, at int) []beginning {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil
	}
	var all, own []beginning
	if !expand([]*syntax.Regexp{re}, beginning{}, &all) {
		return nil
	}
	for _, b := range all {
		text := strings.ToLower(b.text)
		if b.before = strings.Index(text, keywords[at]); b.before >= 0 {
			own = append(own, b)
		} else if !slices.ContainsFunc(keywords, func(k string) bool { return strings.Contains(text, k) }) {
			return nil
		}
	}
	return own
}

// expand adds the ways in which what seq matches goes on after b. It reports
// false where there are too many.
func expand(seq []*syntax.Regexp, b beginning, all *[]beginning) bool {
	for len(seq) > 0 {
		re := seq[0]
		seq = seq[1:]
		switch re.Op {
		case syntax.OpEmptyMatch, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText, syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		case syntax.OpCapture, syntax.OpConcat:
			seq = append(append([]*syntax.Regexp{}, re.Sub...), seq...)
		case syntax.OpLiteral:
			b.text += string(re.Rune)
			b.fold = b.fold || re.Flags&syntax.FoldCase != 0
		case syntax.OpAlternate:
			for _, way := range re.Sub {
				if !expand(append([]*syntax.Regexp{way}, seq...), b, all) {
					return false
				}
			}
			return true
		case syntax.OpQuest:
			if !expand(seq, b, all) {
				return false
			}
			seq = append([]*syntax.Regexp{re.Sub[0]}, seq...)
		case syntax.OpCharClass:
			b.class, b.least = classOf(re), 1
			return add(b, all)
		case syntax.OpPlus, syntax.OpRepeat:
			if least := max(re.Min, 1); re.Sub[0].Op == syntax.OpCharClass && (re.Op == syntax.OpPlus || re.Min > 0) {
				b.class, b.least = classOf(re.Sub[0]), least
			}
			return add(b, all)
		default:
			return add(b, all)
		}
	}
	return add(b, all)
}

func add(b beginning, all *[]beginning) bool {
	*all = append(*all, b)
	return len(*all) <= maxBeginnings
}

// classOf gives the bytes that the characters of a class are written with.
func classOf(re *syntax.Regexp) *[256]bool {
	var is [256]bool
	for i := 0; i+1 < len(re.Rune); i += 2 {
		for r := re.Rune[i]; r <= re.Rune[i+1] && r < 0x80; r++ {
			is[r] = true
		}
		if re.Rune[i+1] >= 0x80 {
			for b := 0x80; b < len(is); b++ {
				is[b] = true
			}
		}
	}
	return &is
}

// fits reports whether the format may begin around the keyword at i in text.
func (h *hint) fits(text []byte, i int) bool {
	if h.beginnings == nil {
		return true
	}
	for k := range h.beginnings {
		b := &h.beginnings[k]
		from := i - b.before
		to := from + len(b.text)
		if from < 0 || to+b.least > len(text) {
			continue
		}
		if b.fold {
			if !bytes.EqualFold(text[from:to], []byte(b.text)) {
				continue
			}
		} else if string(text[from:to]) != b.text {
			continue
		}
		n := 0
		for n < b.least && b.class[text[to+n]] {
			n++
		}
		if n == b.least {
			return true
		}
	}
	return false
}

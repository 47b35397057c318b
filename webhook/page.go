package webhook

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// page is an object as people are shown it: YAML, in which no two objects look
// alike. Every line knows the field that it is of.
type page struct {
	lines []string
	of    []*place // by line
	// longest is how many bytes of a string are shown; 0 means all.
	longest int
	// metadataLast puts what an agent can fill at will behind what matters.
	metadataLast bool
}

// place is a field, or an item of a list, and the lines of it.
type place struct {
	in       *place // nil of a whole object
	label    string // as in a path: .name or [name]
	item     bool
	from, to int // lines; to is the first after it
}

// path is where p stands: spec.template.spec.containers[web].image.
func (p *place) path() string {
	var labels []string
	for ; p != nil; p = p.in {
		labels = append(labels, p.label)
	}
	slices.Reverse(labels)
	return strings.TrimPrefix(strings.Join(labels, ""), ".")
}

// itemOf is the innermost item of a list that p is in or is.
func (p *place) itemOf() *place {
	for ; p != nil && !p.item; p = p.in {
	}
	return p
}

func (p *page) object(obj map[string]any) {
	if len(obj) > 0 {
		p.fields(obj, "", "", nil)
	}
}

func (p *page) add(text string, of *place) {
	p.lines, p.of = append(p.lines, text), append(p.of, of)
}

// within runs show for a place and notes its lines.
func (p *page) within(at *place, show func()) {
	at.from = len(p.lines)
	show()
	at.to = len(p.lines)
}

// fields shows a map that isn't empty. lead stands before its first line, pad
// before the others.
func (p *page) fields(m map[string]any, lead, pad string, in *place) {
	names := slices.Sorted(maps.Keys(m))
	if i := slices.Index(names, "metadata"); i >= 0 && p.metadataLast && in == nil {
		names = append(slices.Delete(names, i, i+1), "metadata")
	}
	for _, name := range names {
		at := &place{in: in, label: "." + name}
		if !plain(name) || strings.ContainsAny(name, ".[") {
			at.label = "[" + quoted(shortened(name, maxLabel)) + "]"
		}
		shown := written(name)
		if p.longest > 0 && len(name) > p.longest {
			shown = p.long(name)
		}
		p.within(at, func() { p.value(m[name], lead+shown+":", pad, at) })
		lead = pad
	}
}

// maxLabel is how much of a name, which may be of any length, a path tells.
const maxLabel = 253

func shortened(s string, most int) string {
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}

// long is a long string by its start, size and hash.
func (p *page) long(s string) string {
	return fmt.Sprintf("%s... (%d bytes, sha256 %x)", quoted(shortened(s, p.longest/2)), len(s), sha256.Sum256([]byte(s)))
}

// value shows what is behind a name or the dash of an item.
func (p *page) value(v any, lead, pad string, at *place) {
	switch v := v.(type) {
	case map[string]any:
		switch {
		case len(v) == 0:
			p.add(lead+" {}", at)
		case at.item:
			p.fields(v, lead+" ", pad+"  ", at)
		default:
			p.add(lead, at)
			p.fields(v, pad+"  ", pad+"  ", at)
		}
	case []any:
		if len(v) == 0 {
			p.add(lead+" []", at)
			return
		}
		first := pad
		if at.item {
			first, pad = lead+" ", pad+"  "
		} else {
			p.add(lead, at)
		}
		for i, e := range v {
			item := &place{in: at, label: "[" + called(e, i) + "]", item: true}
			p.within(item, func() { p.value(e, first+"-", pad, item) })
			first = pad
		}
	case string:
		p.text(v, lead, pad, at)
	default:
		b, err := json.Marshal(v)
		if err != nil {
			b = []byte("(not JSON)")
		}
		p.add(lead+" "+string(b), at)
	}
}

// text shows a string: as it is where nothing else looks so, line by line where
// it has several, else quoted as in JSON.
func (p *page) text(s, lead, pad string, at *place) {
	whole, note := s, ""
	if p.longest > 0 && len(s) > p.longest {
		s = shortened(s, p.longest)
		s = s[:strings.LastIndexByte(s, '\n')+1]
		note = fmt.Sprintf(" # the first %d of %d bytes, sha256 %x", len(s), len(whole), sha256.Sum256([]byte(whole)))
	}
	body, ends := strings.CutSuffix(s, "\n")
	if !strings.Contains(body, "\n") || strings.HasSuffix(body, "\n") || strings.ContainsAny(body[:1], " \t\n") || hides(s) {
		if note != "" {
			p.add(lead+" "+p.long(whole), at)
		} else {
			p.add(lead+" "+written(whole), at)
		}
		return
	}
	if ends {
		p.add(lead+" |"+note, at)
	} else {
		p.add(lead+" |-", at)
	}
	for line := range strings.SplitSeq(body, "\n") {
		p.add(pad+"  "+line, at)
	}
}

// called is what a path calls an item: by its name where it has one.
func called(item any, i int) string {
	m, _ := item.(map[string]any)
	for _, key := range []string{"name", "key", "type", "uid"} {
		if s, ok := m[key].(string); ok && s != "" && len(s) <= maxLabel {
			return written(s)
		}
	}
	return strconv.Itoa(i)
}

// written is s as it stands for itself, or quoted.
func written(s string) string {
	if plain(s) {
		return s
	}
	return quoted(s)
}

// quoted is s in quotes, with all that isn't seen as escapes.
func quoted(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return `"(not a string)"` // it is one
	}
	return visible(strings.TrimSuffix(b.String(), "\n"))
}

// quantity is a number with a unit, which is no number.
var quantity = regexp.MustCompile(`^[0-9]{1,18}(\.[0-9]{1,9})?(ms|s|m|h|[KMGTP]i|[nukMGTP])$`)

// plain reports whether s without quotes can be taken for nothing else in YAML.
func plain(s string) bool {
	if len(s) < 32 && quantity.MatchString(s) {
		return true
	}
	if s == "" || len(s) > 256 || strings.HasSuffix(s, " ") || strings.HasSuffix(s, ":") || strings.Contains(s, ": ") || strings.Contains(s, " #") {
		return false
	}
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '/'
		digit := c >= '0' && c <= '9'
		if !letter && (i == 0 || !digit && !strings.ContainsRune(" .-:@=+,()%$", rune(c))) {
			return false
		}
	}
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n":
		return false
	}
	return true
}

// hides reports whether not all of s can be seen.
func hides(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, unseen)
}

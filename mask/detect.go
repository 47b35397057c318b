package mask

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/spf13/viper"
	"github.com/zricethezav/gitleaks/v8/config"
)

const (
	// minFormat is the length from which a text of any field is looked at for
	// known formats: none is shorter.
	minFormat = 20
	// longText is the length from which a field's text counts as free text.
	longText = 200
)

// place says how texts are written where one was found.
type place byte

const (
	inField  place = iota // a field of an object: known formats
	inConfig              // configuration, a command line: also what is assigned to a credential's name
	inProse               // a message, a log line: the same, where it isn't a word of a sentence
)

// span is a secret's place in a text.
type span struct{ from, to int }

// format is a credential's known format.
type format struct {
	rule   config.Rule
	strict bool // it is recognised by itself, whatever stands before it
}

// detectors find credentials of known formats: gitleaks' rules, by the keywords
// that come with them.
type detectors struct {
	formats []format
	// words are the keywords, folded, by the hash of their first three bytes.
	words  map[uint32][]keyword
	all    bitset  // of the hashes of every keyword
	strict bitset  // of those of strict formats
	either bitset  // the same, and what may stand from their second bytes on
	brief  []brief // keywords too short for a hash
}

// brief is a keyword of two letters, such as stand in many words: a credential
// with it has no other than a token's bytes for at least minFormat of them.
type brief struct {
	a, b   byte // in lower case
	format int
}

type keyword struct {
	text    []byte
	formats []hint
}

// hint is a format that a keyword stands for. Where beginnings is nil, the format
// may be found anywhere around it.
type hint struct {
	format     int
	beginnings []beginning
}

const hashBits = 15

type bitset [1 << hashBits / 64]uint64

func (s *bitset) set(h uint32)      { s[h/64] |= 1 << (h % 64) }
func (s *bitset) has(h uint32) bool { return s[h/64]&(1<<(h%64)) != 0 }

// second sets what may stand from a word's second byte on.
func (s *bitset) second(word []byte) {
	if len(word) > 3 {
		s.set(trigram(word[1:]))
		return
	}
	for last := range 256 {
		s.set(trigram([]byte{word[1], word[2], byte(last)}))
	}
}

// foldBits makes letters lower case. It does something to other bytes too: it
// is for hashes only.
const foldBits = 0x20

const trigramFactor = 0x9e3779b1

func trigram(b []byte) uint32 {
	_ = b[2]
	return (uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | foldBits*0x010101) * trigramFactor >> (32 - hashBits)
}

// newDetectors reads gitleaks' rules. They are compiled once a process.
var newDetectors = sync.OnceValues(func() (*detectors, error) {
	v := viper.New()
	v.SetConfigType("toml")
	if err := v.ReadConfig(strings.NewReader(config.DefaultConfig)); err != nil {
		return nil, fmt.Errorf("gitleaks' rules: %w", err)
	}
	var vc config.ViperConfig
	if err := v.Unmarshal(&vc); err != nil {
		return nil, fmt.Errorf("gitleaks' rules: %w", err)
	}
	c, err := vc.Translate()
	if err != nil {
		return nil, fmt.Errorf("gitleaks' rules: %w", err)
	}
	d := &detectors{words: map[uint32][]keyword{}}
	for _, r := range c.GetOrderedRules() {
		// Rules of a path concern files; what is assigned to a credential's name is
		// found otherwise.
		if r.Regex == nil || r.Path != nil || r.RuleID == "generic-api-key" {
			continue
		}
		d.add(r)
	}
	return d, nil
})

// assigned stands in the expressions of rules that go by a name before the value.
const assigned = `(?:=|>|:{1,3}=`

func (d *detectors) add(r config.Rule) {
	n := len(d.formats)
	f := format{rule: r, strict: len(r.Keywords) > 0 && !strings.Contains(r.Regex.String(), assigned)}
	var words []string
	for _, word := range r.Keywords {
		if word == "ey" {
			word = "eyj" // what a JOSE header begins with: {" in base64
		}
		if len(word) < 3 {
			d.brief = append(d.brief, brief{word[0], word[1], n})
			f.strict = false
			continue
		}
		words = append(words, word)
	}
	for i, word := range words {
		h := trigram([]byte(word))
		d.all.set(h)
		if f.strict {
			d.strict.set(h)
			d.either.set(h)
			d.either.second([]byte(word))
		}
		at := slices.IndexFunc(d.words[h], func(k keyword) bool { return string(k.text) == word })
		if at < 0 {
			d.words[h] = append(d.words[h], keyword{text: []byte(word)})
			at = len(d.words[h]) - 1
		}
		d.words[h][at].formats = append(d.words[h][at].formats, hint{n, beginningsOf(r.Regex.String(), words, i)})
	}
	d.formats = append(d.formats, f)
}

var schemeEnd = []byte("://")

// mayFormat reports whether a text may hold a credential of a format that is
// recognised by itself. It errs on the safe side. It looks at every second place:
// a keyword stands at one of them or has its second byte there.
func (d *detectors) mayFormat(text []byte) bool {
	i := 0
	for ; i+4 <= len(text); i += 2 {
		// trigram, of one read
		h := (binary.LittleEndian.Uint32(text[i:])&0xffffff | foldBits*0x010101) * trigramFactor >> (32 - hashBits)
		if d.either[h/64]&(1<<(h%64)) != 0 && (d.strictAt(text, i) || i > 0 && d.strictAt(text, i-1)) {
			return true
		}
	}
	// What begins among the last bytes.
	for i = max(0, i-1); i+3 <= len(text); i++ {
		if d.strictAt(text, i) {
			return true
		}
	}
	return bytes.Contains(text, schemeEnd) && bytes.IndexByte(text, '@') >= 0
}

func (d *detectors) strictAt(text []byte, i int) bool {
	h := trigram(text[i:])
	if !d.strict.has(h) {
		return false
	}
	for _, k := range d.words[h] {
		if len(k.text) <= len(text)-i && bytes.EqualFold(text[i:i+len(k.text)], k.text) {
			for _, f := range k.formats {
				if d.formats[f.format].strict && f.fits(text, i) {
					return true
				}
			}
		}
	}
	return false
}

// mayText reports whether a text may hold any credential that detectors find.
func (d *detectors) mayText(text []byte) bool {
	return bytes.IndexByte(text, '=') >= 0 || bytes.IndexByte(text, ':') >= 0 || d.mayFormat(text)
}

const (
	// A format is looked for as far around its keyword, in texts longer than
	// that: before it stand a name or what a credential begins with.
	beforeKeyword = 256
	afterKeyword  = 4 << 10
	// How many bytes formats may be looked for in, of an answer: this, and so many
	// times its own. A text that needs more holds nothing but keywords: it is
	// masked whole.
	freeLooks    = 4 << 20
	looksPerByte = 8
)

// budget is how many bytes formats may still be looked for in.
type budget int

// more adds what n bytes of an answer are worth.
func (b *budget) more(n int) { *b = budget(min(int(*b)+looksPerByte*n, freeLooks)) }

// looks are where in a text a format is looked for.
type looks struct {
	format int
	spans  []span
}

// find adds the credentials of known formats in text.
func (d *detectors) find(text []byte, where place, disabled map[int]bool, left *budget, spans []span) []span {
	if len(text) < minFormat {
		return spans
	}
	var all []looks
	look := func(n, at, size int) {
		if disabled[n] {
			return
		}
		sp := span{max(0, at-beforeKeyword), min(len(text), at+size)}
		i := slices.IndexFunc(all, func(l looks) bool { return l.format == n })
		if i < 0 {
			all = append(all, looks{format: n})
			i = len(all) - 1
		}
		l := &all[i]
		if k := len(l.spans); k > 0 && sp.from <= l.spans[k-1].to {
			*left -= budget(sp.to - l.spans[k-1].to)
			l.spans[k-1].to = sp.to
			return
		}
		*left -= budget(sp.to - sp.from)
		l.spans = append(l.spans, sp)
	}
	for i := 0; i+3 <= len(text) && *left >= 0; i++ {
		h := trigram(text[i:])
		if !d.all.has(h) {
			continue
		}
		for _, k := range d.words[h] {
			if len(k.text) > len(text)-i || !bytes.EqualFold(text[i:i+len(k.text)], k.text) {
				continue
			}
			for _, f := range k.formats {
				if (where != inField || d.formats[f.format].strict) && f.fits(text, i) {
					look(f.format, i, d.formats[f.format].size())
				}
			}
		}
	}
	if where != inField {
		d.findShort(text, left, look)
	}
	if *left < 0 {
		return append(spans, span{0, len(text)})
	}
	for _, l := range all {
		for _, sp := range l.spans {
			spans = d.formats[l.format].find(text, sp, spans)
		}
	}
	return spans
}

// findShort looks for formats whose keywords are short.
func (d *detectors) findShort(text []byte, left *budget, look func(format, at, size int)) {
	for from := 0; from < len(text) && *left >= 0; {
		to := from
		for to < len(text) && tokenByte[text[to]] {
			to++
		}
		if to-from >= minFormat {
			for i := from; i+1 < to; i++ {
				for _, k := range d.brief {
					if text[i]|foldBits == k.a|foldBits && text[i+1]|foldBits == k.b|foldBits {
						look(k.format, i, d.formats[k.format].size())
					}
				}
			}
		}
		from = to + 1
	}
}

// tokenByte is what tokens are made of.
var tokenByte = func() (is [256]bool) {
	for _, b := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.~-+/=") {
		is[b] = true
	}
	return is
}()

// size is how much after its keyword a credential of the format may take.
func (f *format) size() int {
	if f.rule.RuleID == "private-key" {
		return 16 * afterKeyword
	}
	return afterKeyword
}

func (f *format) find(whole []byte, at span, spans []span) []span {
	text := whole[at.from:at.to]
	for _, m := range f.rule.Regex.FindAllSubmatchIndex(text, -1) {
		s := span{m[0], m[1]}
		switch g := f.rule.SecretGroup; {
		case g > 0 && 2*g+1 < len(m) && m[2*g] >= 0:
			s = span{m[2*g], m[2*g+1]}
		case g == 0:
			// As gitleaks does: the first group that took part is the secret.
			for i := 2; i+1 < len(m); i += 2 {
				if m[i] >= 0 && m[i+1] > m[i] {
					s = span{m[i], m[i+1]}
					break
				}
			}
		}
		if e := f.rule.Entropy; e != 0 && entropy(text[s.from:s.to]) <= e {
			continue
		}
		spans = append(spans, span{at.from + s.from, at.from + s.to})
	}
	return spans
}

// userinfo adds the passwords of addresses: scheme://user:password@host (RFC
// 3986 section 3.2.1).
func userinfo(whole []byte, spans []span) []span {
	for at := 0; ; {
		i := bytes.Index(whole[at:], schemeEnd)
		if i < 0 {
			return spans
		}
		at += i + len(schemeEnd)
		text := whole[at:min(len(whole), at+maxAuthority)]
		if next := bytes.Index(text, schemeEnd); next >= 0 {
			text = text[:next]
		}
		if sp, ok := password(text); ok {
			spans = append(spans, span{at + sp.from, at + sp.to})
			at += sp.to
		}
	}
}

// maxAuthority bounds the part of an address that may hold a password.
const maxAuthority = 2 << 10

// password gives the password of an address, whose scheme stood before.
func password(text []byte) (span, bool) {
	until := func(ends string) []byte {
		if i := bytes.IndexAny(text, ends); i >= 0 {
			return text[:i]
		}
		return text
	}
	authority := until("/?# \t\r\n\"'<>`")
	sign := bytes.LastIndexByte(authority, '@')
	if sign < 0 && bytes.IndexByte(authority, ':') >= 0 {
		// It may hold what ends an authority when it should have been escaped.
		sign = bytes.LastIndexByte(until(" \t\r\n\"'<>`"), '@')
	}
	if sign < 0 {
		return span{}, false
	}
	if colon := bytes.IndexByte(text[:sign], ':'); colon >= 0 {
		return span{colon + 1, sign}, !trivial(text[colon+1 : sign])
	}
	return span{0, sign}, sign >= minFormat // a token stands for a user
}

// pair is a variable of an environment as messages quote it, in Go's syntax, in
// JSON or in YAML.
var pair = regexp.MustCompile(`(?i)\bname\\*"?:\s*\\*["']?([\w.-]+)\\*["']?,?\s*\\*"?value\\*"?:[ \t]*(\\*"(?:[^"\\]|\\[^"])*|'[^']*|[^\s,}"']+)`)

func (r *rules) pairs(text []byte, spans []span) []span {
	if !bytes.Contains(text, []byte("alue")) {
		return spans
	}
	for _, m := range pair.FindAllSubmatchIndex(text, -1) {
		if !r.credential(text[m[2]:m[3]]) {
			continue
		}
		from, to := m[4], m[5]
		for from < to && (text[from] == '\\' || text[from] == '"' || text[from] == '\'') {
			from++
		}
		for to > from && text[to-1] == '\\' {
			to--
		}
		if !trivial(text[from:to]) {
			spans = append(spans, span{from, to})
		}
	}
	return spans
}

// freeText masks what is secret in a text. changed is false where nothing is,
// and out then nil.
func (s *Scoped) freeText(text []byte, where place, left *budget, scratch *[]span, of *owner) (out []byte, changed bool) {
	spans := s.secrets(text, where, left, (*scratch)[:0])
	*scratch = spans
	if len(spans) == 0 {
		return nil, false
	}
	at := 0
	for _, sp := range merged(spans) {
		if inMark(text, sp) {
			continue
		}
		out = append(out, text[at:sp.from]...)
		out = s.appendOther(out, text[sp.from:sp.to], of)
		at = sp.to
		changed = true
	}
	if !changed {
		return nil, false
	}
	return append(out, text[at:]...), true
}

// secrets gives where the secrets of a text stand, in any order.
func (s *Scoped) secrets(text []byte, where place, left *budget, spans []span) []span {
	if where == inProse && (bytes.IndexByte(text, 0) >= 0 || !utf8.Valid(text)) {
		// No text: an archive, say, where anything looks like anything.
		return s.known.find(text, s.detect.find(text, inField, s.rules.disabled, left, spans))
	}
	spans = s.detect.find(text, where, s.rules.disabled, left, spans)
	spans = userinfo(text, spans)
	if where != inField {
		spans = s.rules.assignments(text, where, spans)
		spans = s.rules.pairs(text, spans)
	}
	return s.known.find(text, spans)
}

// merged sorts spans and joins those that touch.
func merged(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return a.from - b.from })
	out := spans[:1]
	for _, sp := range spans[1:] {
		if last := &out[len(out)-1]; sp.from < last.to {
			last.to = max(last.to, sp.to)
		} else {
			out = append(out, sp)
		}
	}
	return out
}

// inMark reports whether a span is of a mark that already stands in the text.
func inMark(text []byte, sp span) bool {
	from := max(0, sp.from-markLen)
	to := min(len(text), sp.to+markLen)
	for at := from; ; {
		i := bytes.Index(text[at:to], []byte(MarkPrefix))
		if i < 0 {
			return false
		}
		at += i
		if at <= sp.from && sp.to <= at+markLen && at+markLen <= len(text) && isMark(string(text[at:at+markLen])) {
			return true
		}
		at++
	}
}

package mask

import (
	"math/rand/v2"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"testing"
)

// madeFrom makes a text that re, or most of it, matches.
func madeFrom(re *syntax.Regexp, random *rand.Rand) string {
	out := ""
	switch re.Op {
	case syntax.OpLiteral:
		for _, r := range re.Rune {
			if re.Flags&syntax.FoldCase != 0 && 'a' <= r|0x20 && r|0x20 <= 'z' && random.IntN(2) == 0 {
				r ^= 0x20
			}
			out += string(r)
		}
	case syntax.OpCharClass:
		ascii := len(re.Rune)
		for ascii > 2 && re.Rune[ascii-2] >= 0x80 {
			ascii -= 2
		}
		i := random.IntN(ascii/2) * 2
		out = string(re.Rune[i] + rune(random.IntN(int(min(re.Rune[i+1]-re.Rune[i], 30)+1))))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		out = "x"
	case syntax.OpCapture, syntax.OpConcat:
		for _, sub := range re.Sub {
			out += madeFrom(sub, random)
		}
	case syntax.OpAlternate:
		out = madeFrom(re.Sub[random.IntN(len(re.Sub))], random)
	case syntax.OpQuest, syntax.OpStar, syntax.OpPlus, syntax.OpRepeat:
		least, more := re.Min, 2
		if re.Op == syntax.OpPlus {
			least, more = 1, 30
		}
		for range least + random.IntN(more) {
			out += madeFrom(re.Sub[0], random)
		}
	}
	return out
}

// What a format matches is never ruled out by how it begins.
func TestBeginningsRuleOutNoMatch(t *testing.T) {
	t.Parallel()
	d, err := newDetectors()
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 1))
	hints := map[int][]hint{}
	for _, words := range d.words {
		for _, k := range words {
			for _, h := range k.formats {
				hints[h.format] = append(hints[h.format], h)
			}
		}
	}
	known := 0
	for n, f := range d.formats {
		for _, h := range hints[n] {
			if h.beginnings != nil {
				known++
			}
		}
		re, err := syntax.Parse(f.rule.Regex.String(), syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		made := 0
		for range 50 {
			text := "a: " + madeFrom(re, random)
			m := f.rule.Regex.FindStringIndex(text)
			// gitleaks looks only where a keyword stands, and no credential has letters
			// such as the long s, which folds to one of ASCII's.
			if m == nil || len(text) < minFormat || !hasKeyword(text, f.rule.Keywords) || strings.ContainsFunc(text, func(r rune) bool { return r > 0x7f }) {
				continue
			}
			made++
			for before := range 5 { // it looks at every second place
				if at := strings.Repeat("(", before) + text[len("a: "):]; f.strict && !d.mayFormat([]byte(at)) {
					t.Errorf("%s: mayFormat rules out %q", f.rule.RuleID, at)
				}
			}
			left := budget(freeLooks)
			found := d.find([]byte(text), inProse, nil, &left, nil)
			if want := f.find([]byte(text), span{0, len(text)}, nil); len(want) > 0 && !holds(found, want[0]) {
				t.Errorf("%s: find rules out %q, wants %v, got %v", f.rule.RuleID, text, want, found)
			}
		}
		if made == 0 && slices.ContainsFunc(hints[n], func(h hint) bool { return h.beginnings != nil }) {
			t.Errorf("%s: no text could be made of %s", f.rule.RuleID, f.rule.Regex)
		}
	}
	if known < 60 {
		t.Errorf("how it begins is known of %d keywords only", known)
	}
}

func hasKeyword(text string, keywords []string) bool {
	return slices.ContainsFunc(keywords, func(k string) bool {
		if k == "ey" {
			k = "eyj" // as detectors have it
		}
		return strings.Contains(strings.ToLower(text), k)
	})
}

func holds(spans []span, want span) bool {
	for _, sp := range spans {
		if sp.from <= want.from && sp.to >= want.to {
			return true
		}
	}
	return false
}

func TestBeginnings(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		expr, keywords, text string
		at                   int
		fits                 bool
	}{
		{`\b(API-[A-Z0-9]{26})(?:x|$)`, "api-", "kube-api-access-00000-0123456789", 5, false},
		{`\b(API-[A-Z0-9]{26})(?:x|$)`, "api-", "API-ABCDEFGHIJKLMNOPQRSTUVWXYZ", 0, true},
		{`\b(API-[A-Z0-9]{26})(?:x|$)`, "api-", "API-ABCDEFGHIJKLMNOPQRSTUVWXY", 0, false},
		{`(?:A3T[A-Z0-9]|AKIA|ASIA)[A-Z2-7]{16}`, "akia asia a3t", "xAKIAABCDEFGHIJKLMNOP", 1, true},
		{`(?:A3T[A-Z0-9]|AKIA|ASIA)[A-Z2-7]{16}`, "akia asia a3t", "xAKIAabcdefghijklmnop", 1, false},
		{`(?i)ab(?:cd)?ef[0-9]+`, "ab", "ABCDEF7", 0, true},
		{`(?i)ab(?:cd)?ef[0-9]+`, "ab", "aBef7", 0, true},
		{`(?i)ab(?:cd)?ef[0-9]+`, "ab", "abxef7", 0, false},
		{`[a-z]{0,5}key-[0-9]{9}`, "key-", "key-x", 0, true}, // how it begins isn't known
	} {
		all := beginningsOf(tc.expr, strings.Fields(tc.keywords), 0)
		if all == nil {
			if re := regexp.MustCompile(tc.expr); !tc.fits {
				t.Errorf("%s: its beginnings aren't known", re)
			}
			continue
		}
		h := hint{beginnings: all}
		if got := h.fits([]byte(tc.text), tc.at); got != tc.fits {
			t.Errorf("%s in %q at %d: fits %t, want %t (%+v)", tc.expr, tc.text, tc.at, got, tc.fits, all)
		}
	}
}

package webhook

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestDiff(t *testing.T) {
	t.Parallel()
	obj := func(s string) map[string]any {
		var m map[string]any
		if err := json.Unmarshal([]byte(s), &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	tests := []struct {
		name     string
		old, new map[string]any
		want     string
	}{
		{"a changed field is shown with its parents", obj(`{"spec":{"replicas":1}}`), obj(`{"spec":{"replicas":3}}`),
			"--- before\n+++ after\n@@ -1,2 +1,2 @@\n spec:\n-  replicas: 1\n+  replicas: 3\n"},
		{"a deletion shows what goes", obj(`{"kind":"Namespace"}`), nil, "--- before\n+++ after\n@@ -1 +0,0 @@\n-kind: Namespace\n"},
		{"a creation shows what comes", nil, obj(`{"kind":"Pod"}`), "--- before\n+++ after\n@@ -0,0 +1 @@\n+kind: Pod\n"},
		{"no change shows nothing", obj(`{"kind":"Pod"}`), obj(`{"kind":"Pod"}`), ""},
		{"text that runs backwards or hides is made visible", nil, obj(`{"a":"x\u202ey\u200bz"}`), "--- before\n+++ after\n@@ -0,0 +1 @@\n+a: x\\u202ey\\u200bz\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, n, err := diff(tt.old, tt.new)
			if err != nil || got != tt.want || n != int64(len(tt.want)) {
				t.Errorf("got %d bytes, %v:\n%q\nwant\n%q", n, err, got, tt.want)
			}
		})
	}
}

func TestDiffIsCutVisibly(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{
		"many lines":    strings.Repeat("line of text\n", 60_000),
		"one long line": strings.Repeat("é", 600_000),
	} {
		got, whole, err := diff(nil, map[string]any{"data": value})
		if err != nil {
			t.Fatal(err)
		}
		if len(got) > maxDiffBytes || whole <= maxDiffBytes || !strings.Contains(got, "... cut here: the whole difference has ") || !utf8.ValidString(got) {
			t.Errorf("%s: %d of %d bytes, ending %q", name, len(got), whole, got[max(0, len(got)-160):])
		}
	}
}

func FuzzDiff(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":["x"]}`), []byte(`{"a":2,"c":"\u202e\u0000"}`))
	f.Add([]byte(`{"a":1,"b":["x"]}`), []byte(`{"{{{":1,"b":["x"],"c":"\u007f\u0085"}`))
	f.Add([]byte(`{}`), []byte(`{"kind":"Secret","data":{"k":"v"}}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var before, after map[string]any
		if json.Unmarshal(a, &before) != nil || json.Unmarshal(b, &after) != nil {
			return
		}
		text, whole, err := diff(before, after)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > maxDiffBytes || int64(len(text)) > whole && whole <= maxDiffBytes || !utf8.ValidString(text) || visible(text) != text {
			t.Fatalf("%d of %d bytes: %q", len(text), whole, text)
		}
		one, _ := toYAML(before)
		two, _ := toYAML(after)
		if visible(one) == one && visible(two) == two && whole <= maxDiffBytes {
			if back := applied(t, text, one); back != two {
				t.Fatalf("the diff does not lead from old to new, but to\n%s\n%s", back, text)
			}
		}
	})
}

var hunk = regexp.MustCompile(`^@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@`)

// applied is before with a unified diff applied to it.
func applied(t *testing.T, text, before string) string {
	t.Helper()
	if text == "" {
		return before
	}
	old := strings.SplitAfter(before, "\n")
	var b strings.Builder
	at, lines := 0, strings.SplitAfter(text, "\n")
	for i := 2; i < len(lines) && lines[i] != ""; { // after --- and +++
		m := hunk.FindStringSubmatch(lines[i])
		if m == nil {
			t.Fatalf("%q is no hunk", lines[i])
		}
		number := func(s string) int {
			if s == "" {
				return 1
			}
			n, err := strconv.Atoi(s)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		from, fromLen, toLen := number(m[1]), number(m[2]), number(m[3])
		if fromLen == 0 {
			from++ // an empty range stands after the line that it names
		}
		for ; at < from-1; at++ {
			b.WriteString(old[at])
		}
		for i++; i < len(lines) && (fromLen > 0 || toLen > 0); i++ {
			switch line := lines[i]; line[0] {
			case ' ':
				b.WriteString(line[1:])
				at, fromLen, toLen = at+1, fromLen-1, toLen-1
			case '-':
				at, fromLen = at+1, fromLen-1
			case '+':
				b.WriteString(line[1:])
				toLen--
			default:
				t.Fatalf("a line of a hunk is %q", line)
			}
		}
	}
	return b.String() + strings.Join(old[min(at, len(old)):], "")
}

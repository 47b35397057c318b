package webhook

import (
	"encoding/json"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/internal/jsontree"
)

func obj(t testing.TB, text string) map[string]any {
	t.Helper()
	if text == "" {
		return nil
	}
	j, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(j, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestDiff(t *testing.T) {
	t.Parallel()
	const head = "--- before\n+++ after\n"
	settings := "env: [" + strings.Repeat("{name: SETTING, value: x}, ", 30) + "{name: LAST, value: x}]"
	containers := func(first, second string) string {
		return "{spec: {containers: [{" + settings + ", name: log-tailer, securityContext: {a: 1, b: 2, c: 3, d: 4, privileged: " + first + "}}, {" + settings + ", name: payment, securityContext: {privileged: " + second + "}}]}}"
	}
	tests := []struct {
		name     string
		old, new string
		want     string
	}{
		{"a changed field is shown with its path", "{spec: {replicas: 1}}", "{spec: {replicas: 3}}",
			head + "@@ -1,2 +1,2 @@ spec.replicas\n spec:\n-  replicas: 1\n+  replicas: 3\n"},
		{"a deletion shows what goes", "{kind: Namespace}", "", head + "@@ -1 +0,0 @@\n-kind: Namespace\n"},
		{"a creation shows what comes", "", "{kind: Pod}", head + "@@ -0,0 +1 @@\n+kind: Pod\n"},
		{"no change shows nothing", "{kind: Pod}", "{kind: Pod}", ""},
		{"text that runs backwards or hides is made visible", "", `{a: "x\u202ey\u200bz", "b\u202e": 1}`,
			head + "@@ -0,0 +1,2 @@\n+a: \"x\\u202ey\\u200bz\"\n+\"b\\u202e\": 1\n"},
		{"fillers that look like nothing are made visible", "", `{a: "x\u3164y\ufe0fz\u2800", b: "é"}`,
			head + "@@ -0,0 +1,2 @@\n+a: \"x\\u3164y\\ufe0fz\\u2800\"\n+b: \"é\"\n"},
		{"of which item a far field is, is told", containers("false", "true"), containers("true", "true"),
			head + "@@ -69,7 +69,7 @@ spec.containers[log-tailer].securityContext.privileged\n       b: 2\n       c: 3\n       d: 4\n-      privileged: false\n+      privileged: true\n" +
				"   - env:\n     - name: SETTING\n       value: x\n"},
		{"fields of two items are told apart", containers("false", "true"), containers("true", "false"),
			head + "@@ -69,7 +69,7 @@ spec.containers[log-tailer].securityContext.privileged\n       b: 2\n       c: 3\n       d: 4\n-      privileged: false\n+      privileged: true\n" +
				"   - env:\n     - name: SETTING\n       value: x\n" +
				"@@ -135,4 +135,4 @@ spec.containers[payment].securityContext.privileged\n       value: x\n     name: payment\n     securityContext:\n-      privileged: true\n+      privileged: false\n"},
		{"a small item is shown whole", "{rules: [{apiGroups: [''], resources: [pods]}, {apiGroups: [''], resourceNames: [a, b, c, d, e], resources: [secrets], verbs: [get]}]}",
			"{rules: [{apiGroups: [''], resources: [pods]}, {apiGroups: [''], resourceNames: [a, b, c, d, e], resources: [secrets], verbs: [get, list]}]}",
			head + "@@ -6,12 +6,13 @@ rules[1].verbs[1]\n - apiGroups:\n   - \"\"\n   resourceNames:\n   - a\n   - b\n   - c\n   - d\n   - e\n   resources:\n   - secrets\n   verbs:\n   - get\n+  - list\n"},
		{"names with dots are quoted in paths", "{metadata: {annotations: {a.b/c: x}}}", "{metadata: {annotations: {a.b/c: z}}}",
			head + "@@ -1,3 +1,3 @@ metadata.annotations[\"a.b/c\"]\n metadata:\n   annotations:\n-    a.b/c: x\n+    a.b/c: z\n"},
		{"text of several lines is compared line by line", `{data: {f: "a\nb\nc\n"}}`, `{data: {f: "a\nB\nc\n"}}`,
			head + "@@ -1,5 +1,5 @@ data.f\n data:\n   f: |\n     a\n-    b\n+    B\n     c\n"},
		{"a list becomes empty", "{spec: {a: [1]}}", "{spec: {a: []}}", head + "@@ -1,3 +1,2 @@ spec.a\n spec:\n-  a:\n-  - 1\n+  a: []\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, n := diff(obj(t, tt.old), obj(t, tt.new))
			if got != tt.want || n != int64(len(tt.want)) {
				t.Errorf("got %d bytes:\n%s\nwant\n%s", n, got, tt.want)
			}
		})
	}
}

// What people see must not depend on what stands beside it: two objects never look alike.
func TestNoTwoValuesLookAlike(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, v := range []string{
		`1`, `"1"`, `1.5`, `true`, `"true"`, `"True"`, `null`, `"null"`, `""`, `{}`, `"{}"`, `[]`, `"[]"`, `[""]`, `[[]]`, `[{}]`, `"no"`, `"a"`, `"a "`, `" a"`, `"a\n"`, `"a\nb"`, `"a\nb\n"`,
		`"a\nb\n\n"`, `"\na\nb"`, `"a\r\nb"`, `"|\na"`, `"|"`, `"|-"`, `"a: b"`, `"a:"`, `"a #b"`, `"- a"`, `["a"]`, `{"a":"b"}`, `"\"a\""`, `"'a'"`, `"\\u202e"`, `"\u202e"`, `"\t"`, `"a\tb"`,
		`{"a":1,"b":2}`, `[{"a":1},{"b":2}]`, `[{"a":1,"b":2}]`, `[["a","b"]]`, `[["a"],["b"]]`, `["a","b"]`, `"a\nb: c"`, `{"a":{"b":1}}`, `{"a":[{"b":1}]}`, `"1e3"`, `"0x1f"`, `"~"`, `".inf"`, `"2026-11-23"`,
	} {
		var p page
		var value any
		if err := json.Unmarshal([]byte(v), &value); err != nil {
			t.Fatal(v, err)
		}
		p.object(map[string]any{"k": value, "l": "x"})
		text := strings.Join(p.lines, "\n")
		if other, ok := seen[text]; ok {
			t.Errorf("%s and %s both are\n%s", v, other, text)
		}
		seen[text] = v
		if hides(text) || len(p.lines) != len(p.of) {
			t.Errorf("%s: %q", v, text)
		}
	}
}

// What is shown is YAML, and says what the object is.
func TestPageIsYAML(t *testing.T) {
	t.Parallel()
	for _, o := range append(oddObjects, deployment3, `{a: [[1, [2, 3]], {b: [{c: 1}, {d: [x]}]}], "k: v": "a: b", e: {}, f: "x\ny\n", g: "  lead\ntwo", n: null, t: true, s: 'true', u: "1"}`) {
		want := obj(t, o)
		if len(want) == 0 {
			continue
		}
		var p page
		p.object(want)
		if got := obj(t, strings.Join(p.lines, "\n")+"\n"); !reflect.DeepEqual(got, want) {
			t.Errorf("%s is shown as\n%s\nwhich is %v", o, strings.Join(p.lines, "\n"), got)
		}
	}
}

func TestDiffIsCutVisibly(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		object map[string]any
		want   []string
	}{
		"many lines":    {map[string]any{"data": strings.Repeat("line of text\n", 60_000)}, []string{"... shortened here: the whole difference has ", " of 780000 bytes, sha256 "}},
		"one long line": {map[string]any{"data": strings.Repeat("é", 600_000)}, []string{"... shortened here: the whole difference has "}},
		"a long name":   {map[string]any{strings.Repeat("é", 600_000): 1}, []string{"... shortened here: the whole difference has "}},
		"an annotation doesn't hide the spec": {map[string]any{
			"metadata": map[string]any{"annotations": map[string]any{"a": strings.Repeat("x", 200_000)}}, "spec": map[string]any{"hostPID": true},
		}, []string{"+  hostPID: true\n", "... shortened here: the whole difference has 200"}},
		"many annotations don't hide the spec": {map[string]any{
			"metadata": map[string]any{"annotations": func() map[string]any {
				all := map[string]any{}
				for i := range 10_000 {
					all[strconv.Itoa(i)] = "value"
				}
				return all
			}()}, "spec": map[string]any{"hostPID": true},
		}, []string{"+  hostPID: true\n", "... cut here: the whole difference has "}},
		"what the store writes longer": {map[string]any{"data": strings.Repeat("<&>\n", 10_000)}, []string{"... shortened here"}},
	} {
		got, whole := diff(nil, tt.object)
		j, err := json.Marshal(got)
		if err != nil || len(j) > maxDiffBytes+2 || !utf8.ValidString(got) || whole <= 40_000-1 {
			t.Errorf("%s: %d stored, %d of %d bytes, ending %q, %v", name, len(j), len(got), whole, got[max(0, len(got)-160):], err)
		}
		for _, w := range tt.want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: lacks %q: %.300q … %q", name, w, got, got[max(0, len(got)-160):])
			}
		}
	}
}

func TestStoredIsWhatTheStoreWrites(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"plain", "<a & b>", "\"q\" \\ \n\t\r", "\u0001\u001f\u007f", "é日本😀", "\u2028\u2029", "\ufffd"} {
		j, err := json.Marshal(s)
		if err != nil || stored(s) < len(j)-2 || stored(s) > len(j)+4 {
			t.Errorf("%q: %d, stored are %d (%v)", s, stored(s), len(j)-2, err)
		}
		for most := range 20 {
			if c := cut(s, most); stored(c) > most || !strings.HasPrefix(s, c) || !utf8.ValidString(c) {
				t.Errorf("%q cut to %d: %q", s, most, c)
			}
		}
	}
}

func TestWhatIsTooMuchIsNotShown(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		text string
		want string
	}{
		"deep":              {strings.Repeat(`{"a":`, 101) + "1" + strings.Repeat("}", 101), "nested deeper than 100"},
		"just not deep":     {strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), ""},
		"many fields":       {`{"a":[` + strings.Repeat("1,", 100_000) + "1]}", "more than 100000"},
		"many lines":        {`{"a":"` + strings.Repeat(`\n`, 100_001) + `"}`, "more than 100000"},
		"one long string":   {`{"a":"` + strings.Repeat("x", 3<<20) + `"}`, ""},
		"just not too many": {`{"a":[` + strings.Repeat("1,", 99_900) + "1]}", ""},
	} {
		v, err := jsontree.Parse([]byte(tt.text))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := showable(v, jsontree.Value{}); err != nil {
			got = err.Error()
		}
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
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
		text, whole := diff(before, after)
		if stored(text) > maxDiffBytes || !utf8.ValidString(text) || visible(text) != text {
			t.Fatalf("%d of %d bytes: %q", len(text), whole, text)
		}
		var first, second page
		first.object(before)
		second.object(after)
		join := func(p page) string {
			if len(p.lines) == 0 {
				return ""
			}
			return strings.Join(p.lines, "\n") + "\n"
		}
		if one, two := join(first), join(second); whole == int64(len(text)) {
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

package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

const planted = "hunter2-PLANTED"

var planted64 = base64.StdEncoding.EncodeToString([]byte(planted))

func scoped(t testing.TB) *Scoped {
	t.Helper()
	m, err := New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return m.Scope("run-1")
}

// hides is every way in which a Secret's value can stand in an answer.
var hides = []struct {
	name, resource, in string
	keeps              string // must still be there
}{
	{"a single Secret", "", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"s"},"data":{"password":"` + planted64 + `"}}`, `"password"`},
	{"its stringData", "", `{"kind":"Secret","apiVersion":"v1","stringData":{"password":"` + planted + `"}}`, `"password"`},
	{"the kind after the data", "", `{"data":{"password":"` + planted64 + `"},"kind":"Secret","apiVersion":"v1"}`, `"kind":"Secret"`},
	{"a SecretList, whose items don't say their kind", "", `{"kind":"SecretList","apiVersion":"v1","items":[{"metadata":{"name":"a"},"data":{"k":"` + planted64 + `"}}]}`, `"name":"a"`},
	{"a list whose kind comes last", "", `{"apiVersion":"v1","items":[{"metadata":{"name":"a"},"data":{"k":"` + planted64 + `"}}],"kind":"SecretList"}`, `"name":"a"`},
	{"a SecretList whose item calls itself a ConfigMap", "", `{"kind":"SecretList","items":[{"kind":"ConfigMap","data":{"k":"` + planted64 + `"}}]}`, ""},
	{"a List of mixed kinds", "", `{"kind":"List","items":[{"kind":"ConfigMap","data":{"k":"visible"}},{"kind":"Secret","data":{"k":"` + planted64 + `"}}]}`, "visible"},
	{"a watch event", "", `{"type":"ADDED","object":{"kind":"Secret","data":{"k":"` + planted64 + `"}}}`, `"ADDED"`},
	{"a watch event whose object doesn't say its kind", "secrets", `{"type":"ADDED","object":{"data":{"k":"` + planted64 + `"}}}`, `"ADDED"`},
	{"a table row with the whole object", "", `{"kind":"Table","rows":[{"cells":["a",1],"object":{"kind":"Secret","data":{"k":"` + planted64 + `"}}}]}`, `"cells"`},
	{"a table row with metadata only, and last-applied in it", "secrets", `{"kind":"Table","rows":[{"cells":["a"],"object":{"kind":"PartialObjectMetadata","metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"kind\":\"Secret\",\"stringData\":{\"k\":\"` + planted + `\"}}"}}}}]}`, "PartialObjectMetadata"},
	{"a watched table", "secrets", `{"type":"ADDED","object":{"kind":"Table","rows":[{"cells":["a"],"object":{"kind":"Secret","data":{"k":"` + planted64 + `"}}}]}}`, `"cells"`},
	{"last-applied that is no JSON", "", `{"kind":"Secret","metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"k: ` + planted + `"}}}`, ""},
	{"a word spelt with escapes", "", `{"k\u0069nd":"S\u0065cret","d\u0061ta":{"k":"` + planted64 + `"}}`, ""},
	{"an annotation spelt with an escaped slash", "pods", `{"kind":"PodList","items":[{"metadata":{"annotations":{"kubectl.kubernetes.io\/last-applied-configuration":"{\"kind\":\"Secret\",\"stringData\":{\"k\":\"` + planted + `\"}}"}}}]}`, "annotations"},
	{"a patch that doesn't say its kind", "secrets", `{"data":{"k":"` + planted64 + `"},"stringData":{"l":"` + planted + `"}}`, `"l"`},
	{"an error that quotes the value", "secrets", `{"kind":"Status","status":"Failure","reason":"Invalid","message":"data[k]: Invalid value: ` + planted + `","details":{"name":"s","kind":"Secret","causes":[{"field":"data[k]","message":"` + planted + `"}]}}`, `"Invalid"`},
	{"a requested token", "", `{"kind":"TokenRequest","spec":{"audiences":["a"]},"status":{"token":"` + planted + `"}}`, `"audiences"`},
	{"data that is no base64", "", `{"kind":"Secret","data":{"k":"` + planted + `"}}`, `"k"`},
	{"data of the wrong shape", "", `{"kind":"Secret","data":["` + planted + `",{"x":"` + planted + `"}]}`, ""},
}

func TestI7_ValuesNeverPass(t *testing.T) {
	t.Parallel()
	for _, tc := range hides {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			// One byte at a time, so that every boundary is met.
			if err := scoped(t).JSONOf(tc.resource, "", &out, iotest.OneByteReader(strings.NewReader(tc.in))); err != nil {
				t.Fatal(err)
			}
			if leaks(out.String()) {
				t.Errorf("the value passed: %s", out.String())
			}
			if !strings.Contains(out.String(), tc.keeps) {
				t.Errorf("%q is gone from %s", tc.keeps, out.String())
			}
			if !HasMark(out.String()) && !strings.Contains(out.String(), base64Prefix) {
				t.Errorf("no mark in %s", out.String())
			}
			if !json.Valid(out.Bytes()) {
				t.Errorf("invalid JSON: %s", out.String())
			}
		})
	}
}

func leaks(s string) bool { return strings.Contains(s, planted) || strings.Contains(s, planted64) }

func TestWhatIsNotSecretPassesUnchanged(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, resource, in string }{
		{"a ConfigMap", "configmaps", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"12"},"data":{"k":"v"}}`},
		{"a ConfigMapList, whose items don't say their kind", "configmaps", `{"kind":"ConfigMapList","items":[{"data":{"k":"v"}},{"data":{"k":"w"}}]}`},
		{"an integer that a float can't hold", "", `{"kind":"Pod","spec":{"n":9007199254740993},"data":null}`},
		{"an object with items of its own", "", `{"kind":"Thing","items":[1,"a",null],"rows":[],"x":{"y":[]}}`},
		{"a Secret that isn't found", "secrets", `{"kind":"Status","status":"Failure","message":"secrets \"a\" not found","reason":"NotFound","details":{"name":"a","kind":"secrets"},"code":404}`},
		{"an empty list", "", `{"kind":"SecretList","items":[]}`},
		{"an empty object", "", `{}`},
		{"a bookmark", "", `{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"3"}}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			if err := scoped(t).JSONOf(tc.resource, "", &out, strings.NewReader(tc.in)); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(parse(t, tc.in), parse(t, out.String())) {
				t.Errorf("got %s", out.String())
			}
		})
	}
}

func parse(t testing.TB, s string) any {
	t.Helper()
	v, err := decode([]byte(strings.TrimSpace(s)))
	if err != nil {
		t.Fatalf("%v in %q", err, s)
	}
	return v
}

func TestWhatCannotBeParsedIsNotPassedOn(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, in string }{
		{"an object cut short", `{"kind":"Secret","data":{"k":"` + planted64 + `"`},
		{"a name given twice", `{"kind":"ConfigMap","kind":"Secret","data":{"k":"` + planted64 + `"}}`},
		{"a data member given twice", `{"kind":"Secret","data":{"k":"` + planted64 + `"},"data":{"k":"` + planted64 + `"}}`},
		{"a list item cut short", `{"kind":"SecretList","items":[{"data":{"k":"` + planted64 + `"}`},
		{"plain text", planted},
		{"a bare list", `["` + planted + `"]`},
		{"a bare string", `"` + planted + `"`},
		{"invalid UTF-8", "{\"kind\":\"Secret\",\"data\":{\"k\":\"" + planted + "\xff\"}}"},
		{"nesting without end", `{"kind":"Secret","x":"` + planted64 + `","y":` + strings.Repeat("[", 20000)},
		{"rubbish after the object", `{"kind":"A"}` + planted},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			err := scoped(t).JSON(&out, strings.NewReader(tc.in))
			if err == nil {
				t.Errorf("no error; passed %s", out.String())
			} else if leaks(err.Error()) {
				t.Errorf("the error quotes the value: %v", err)
			}
			if leaks(out.String()) {
				t.Errorf("the value passed: %s", out.String())
			}
		})
	}
}

func TestMarks(t *testing.T) {
	t.Parallel()
	m, err := New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	a, b := m.Scope("run-a"), m.Scope("run-b")
	if x, again := a.String("x"), a.String("x"); x != again {
		t.Error("equal values have different marks within a run")
	}
	if a.String("x") == a.String("y") || a.String("x") == b.String("x") {
		t.Error("different values, or different runs, share a mark")
	}
	if got := a.String(a.String("x")); got != a.String("x") {
		t.Errorf("a mark was masked again: %s", got)
	}
	if len(a.String("x")) != markLen || len(a.String(strings.Repeat("x", 999))) != markLen {
		t.Error("marks differ in width")
	}
	plain, err := base64.StdEncoding.DecodeString(a.base64(base64.StdEncoding.EncodeToString([]byte("x"))))
	if err != nil || string(plain) != a.String("x") {
		t.Errorf("data and stringData differ: %q %v", plain, err)
	}
	if _, err := New(make([]byte, 16)); err == nil {
		t.Error("a short key was taken")
	}
}

func TestContainsMark(t *testing.T) {
	t.Parallel()
	mark := scoped(t).String("x")
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, tc := range []struct {
		name string
		in   any
		path string
		want bool
	}{
		{"none", map[string]any{"a": []any{"b", 1.0, nil}}, "", false},
		{"in data", map[string]any{"data": map[string]any{"k": b64(mark)}}, "data.k", true},
		{"inside a longer base64, at any alignment", map[string]any{"data": map[string]any{"k": b64("ab" + mark + "cd")}}, "data.k", true},
		{"in a list", map[string]any{"env": []any{"x", "pw=" + mark}}, "env[1]", true},
		{"in a name", map[string]any{mark: "x"}, mark, true},
	} {
		path, found := ContainsMark(tc.in)
		if path != tc.path || found != tc.want {
			t.Errorf("%s: got %q %v", tc.name, path, found)
		}
	}
}

func TestObjectOfPatch(t *testing.T) {
	t.Parallel()
	ops := parse(t, `[{"op":"replace","path":"/data/k","value":"`+planted64+`"},{"op":"add","path":"/data","value":{"a":["`+planted+`"]}}]`)
	out, err := encode(scoped(t).ValueOf("secrets", "", ops))
	if err != nil {
		t.Fatal(err)
	}
	if leaks(string(out)) || !strings.Contains(string(out), "/data/k") {
		t.Errorf("got %s", out)
	}
	cm := map[string]any{"data": map[string]any{"k": "v"}}
	scoped(t).ObjectOf("configmaps", "", cm)
	if !reflect.DeepEqual(cm, map[string]any{"data": map[string]any{"k": "v"}}) {
		t.Errorf("a ConfigMap's patch was masked: %v", cm)
	}
}

type flushCounter struct {
	bytes.Buffer
	flushed []int
}

func (f *flushCounter) Flush() { f.flushed = append(f.flushed, f.Len()) }

func TestEachWatchEventIsFlushed(t *testing.T) {
	t.Parallel()
	pr, pw := io.Pipe()
	out := &flushCounter{}
	done := make(chan error, 1)
	go func() { done <- scoped(t).JSON(out, pr) }()
	for i := range 3 {
		if _, err := fmt.Fprintf(pw, `{"type":"ADDED","object":{"kind":"Secret","metadata":{"name":"s%d"},"data":{"k":"%s"}}}`+"\n", i, planted64); err != nil {
			t.Fatal(err)
		}
	}
	_ = pw.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if len(out.flushed) != 3 || leaks(out.String()) {
		t.Errorf("flushed %v: %s", out.flushed, out.String())
	}
}

// FuzzJSON holds the streaming masker against one that decodes everything
// first, and looks for the planted value in what comes out.
func FuzzJSON(f *testing.F) {
	for _, h := range hides {
		f.Add(h.in, h.resource)
	}
	f.Add(`{"kind":"SecretList","items":[{},null,3]}`, "")
	f.Fuzz(func(t *testing.T, in, resource string) {
		s := scoped(t)
		var out bytes.Buffer
		err := s.JSONOf(resource, "", &out, strings.NewReader(in))
		v, derr := decode([]byte(in))
		if derr != nil {
			return // many values, or none
		}
		o, ok := v.(map[string]any)
		if !ok {
			if err == nil {
				t.Fatalf("a bare value passed: %s", out.String())
			}
			return
		}
		if err != nil {
			t.Fatalf("valid JSON was refused: %v", err)
		}
		if !json.Valid(out.Bytes()) {
			t.Fatalf("invalid JSON came out: %s", out.String())
		}
		if text(o["kind"]) == "Secret" && o["items"] == nil && o["rows"] == nil {
			s.object(o, kindOf(resource, ""), 0)
			if want := parse(t, mustEncode(t, o)); !reflect.DeepEqual(parse(t, out.String()), want) {
				t.Fatalf("got %s\nwant %v", out.String(), want)
			}
		}
	})
}

func mustEncode(t testing.TB, v any) string {
	t.Helper()
	b, err := encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

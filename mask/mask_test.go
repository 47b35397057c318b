package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
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
	{"a token that is reviewed", "", `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","metadata":{},"spec":{"token":"` + planted + `","audiences":["a"]},"status":{"user":{}}}`, `"audiences"`},
	{"the same, which doesn't say its kind", "tokenreviews", `{"spec":{"audiences":["a"],"token":"` + planted + `"}}`, `"audiences"`},
	{"the same, which calls itself something else", "tokenreviews", `{"kind":"Pod","spec":{"token":"` + planted + `"}}`, `"Pod"`},
	{"an error that quotes a reviewed token", "tokenreviews", `{"kind":"Status","status":"Failure","reason":"Invalid","message":"spec.token: Invalid value: \"` + planted + `\": expired"}`, `"Invalid"`},
	{"last-applied under an escaped slash", "pods", `{"kind":"PartialObjectMetadata","metadata":{"annotations":{"kubectl.kubernetes.io\/last-applied-configuration":"{\"kind\":\"Secret\",\"stringData\":{\"k\":\"` + planted + `\"}}"}}}`, "PartialObjectMetadata"},
	{"a Secret whose last-applied calls itself something else", "", `{"kind":"Secret","metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"kind\":\"Foo\",\"data\":{\"k\":\"` + planted64 + `\"}}"}}}`, ""},
	{"metadata of a Secret whose last-applied calls itself something else", "secrets", `{"kind":"PartialObjectMetadataList","items":[{"kind":"PartialObjectMetadata","metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"kind\":\"Foo\",\"data\":{\"k\":\"` + planted64 + `\"}}"}}}]}`, ""},
	{"an error that doesn't say what it is about", "secrets", `{"kind":"Status","status":"Failure","reason":"Invalid","message":"denied: was ` + planted + `"}`, `"Invalid"`},
	{"a watch error that doesn't say what it is about", "secrets", `{"type":"ERROR","object":{"kind":"Status","status":"Failure","reason":"InternalError","message":"cannot read ` + planted + `"}}`, `"ERROR"`},
	{"data, then items, then the kind, asked for as something else", "widgets", `{"data":{"k":"` + planted64 + `"},"items":[],"kind":"Secret"}`, ""},
	{"the kind, then items, then data, asked for as something else", "widgets", `{"kind":"Secret","items":[],"data":{"k":"` + planted64 + `"}}`, ""},
	{"a list whose kind comes last, asked for as something else", "widgets", `{"items":[{"metadata":{"name":"a"},"data":{"k":"` + planted64 + `"}}],"kind":"SecretList"}`, `"name":"a"`},
	{"a list of Secrets that calls itself another list", "secrets", `{"kind":"WidgetList","items":[{"data":{"k":"` + planted64 + `"}}]}`, ""},
	{"a SecretList of bare strings", "secrets", `{"kind":"SecretList","items":["` + planted + `",["` + planted + `"]]}`, ""},
	{"a table row that is a bare string", "secrets", `{"kind":"Table","rows":["` + planted + `",{"object":"` + planted + `"}]}`, ""},
	{"a watch event whose object is a bare string", "secrets", `{"type":"ADDED","object":"` + planted + `"}`, "ADDED"},
	{"a kind given twice", "", `{"kind":"ConfigMap","kind":"Secret","data":{"k":"` + planted64 + `"}}`, ""},
	{"data given twice", "", `{"kind":"Secret","data":{"k":"` + planted64 + `"},"data":{"k":"` + planted64 + `"}}`, ""},
	{"invalid UTF-8", "", "{\"kind\":\"Secret\",\"data\":{\"k\":\"" + planted + "\xff\"}}", ""},
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
			if err := scoped(t).JSONOf(Ref{tc.resource, ""}, &out, iotest.OneByteReader(strings.NewReader(tc.in))); err != nil {
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
		{"an error about something else than Secrets", "pods", `{"kind":"Status","status":"Failure","reason":"Invalid","message":"spec.x: bad","details":{"kind":"Pod","causes":[{"message":"bad"}]}}`},
		{"a refusal that quotes no values", "secrets", `{"kind":"Status","status":"Failure","reason":"Forbidden","message":"secrets is forbidden"}`},
		{"a list of custom objects, whose kind comes after them", "widgets", `{"apiVersion":"x/v1","items":[{"apiVersion":"x/v1","kind":"Widget","data":{"k":"v"}}],"kind":"WidgetList"}`},
		{"an empty list", "", `{"kind":"SecretList","items":[]}`},
		{"an empty object", "", `{}`},
		{"a bookmark", "", `{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"3"}}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			if err := scoped(t).JSONOf(Ref{tc.resource, ""}, &out, strings.NewReader(tc.in)); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(parse(t, tc.in), parse(t, out.String())) {
				t.Errorf("got %s", out.String())
			}
		})
	}
}

// parse decodes s, and the objects that annotations hold.
func parse(t testing.TB, s string) any {
	t.Helper()
	v, err := decode([]byte(strings.TrimSpace(s)))
	if err != nil {
		t.Fatalf("%v in %q", err, s)
	}
	return unquoteApplied(v)
}

func unquoteApplied(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = unquoteApplied(v[i])
		}
	case map[string]any:
		for k, e := range v {
			v[k] = unquoteApplied(e)
			if inner, err := decode([]byte(text(e))); k == lastApplied && err == nil {
				v[k] = unquoteApplied(inner)
			}
		}
	}
	return v
}

func TestWhatCannotBeParsedIsNotPassedOn(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, in string }{
		{"an object cut short", `{"kind":"Secret","data":{"k":"` + planted64 + `"`},
		{"a number with a quote", `{"":5"}`},
		{"an unquoted value", `{"kind":"Widget","x":` + planted + `}`},
		{"a bracket of the wrong kind", `{"kind":"Secret","data":{"k":"` + planted64 + `"]}`},
		{"a list item cut short", `{"kind":"SecretList","items":[{"data":{"k":"` + planted64 + `"}`},
		{"plain text", planted},
		{"a bare list", `["` + planted + `"]`},
		{"a bare string", `"` + planted + `"`},
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
	plain, err := base64.StdEncoding.DecodeString(reference{a}.mark64text(base64.StdEncoding.EncodeToString([]byte("x"))))
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

// TestMarksLookTheSameInBothBase64Alphabets is what aligned rests on.
func TestMarksLookTheSameInBothBase64Alphabets(t *testing.T) {
	t.Parallel()
	for _, shape := range shapes[1:] {
		if strings.ContainsAny(shape, "+/=-_") || len(shape) < 16 {
			t.Errorf("%q", shape)
		}
	}
}

func TestHasMarkAtEveryPlace(t *testing.T) {
	t.Parallel()
	mark := scoped(t).String("x")
	for before := range 7 {
		for after := range 4 {
			text := strings.Repeat("a", before) + mark + strings.Repeat("b", after)
			for name, enc := range map[string]string{
				"standard": base64.StdEncoding.EncodeToString([]byte(text)),
				"raw URL":  base64.RawURLEncoding.EncodeToString([]byte(text)),
			} {
				if !HasMark(enc) || !HasMark("x: "+enc+"!") || !HasMark(enc[:9]+"\r\n"+enc[9:]) {
					t.Errorf("%s base64 with %d bytes before and %d after hides the mark", name, before, after)
				}
			}
		}
	}
}

// endless never stops giving the same byte, and counts.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	e.read += len(p)
	return len(p), nil
}

func TestAValueTooLargeIsRefusedBeforeItIsHeld(t *testing.T) {
	t.Parallel()
	for _, start := range []string{`{"`, `{"a":"`, `{"kind":"SecretList","items":["`, `{"kind":"Table","rows":[{"object":{"`} {
		e := &endless{}
		err := scoped(t).JSON(io.Discard, io.MultiReader(strings.NewReader(start), e))
		if !errors.Is(err, errTooLarge) {
			t.Errorf("%s…: got %v", start, err)
		}
		if e.read > 2*MaxObjectBytes {
			t.Errorf("%s…: %d bytes were read first", start, e.read)
		}
	}
}

func TestItemsUpToTheBoundPass(t *testing.T) {
	t.Parallel()
	item := `{"x":"` + strings.Repeat("y", MaxObjectBytes-len(`{"x":""}`)) + `"}`
	var out bytes.Buffer
	if err := scoped(t).JSON(&out, strings.NewReader(`{"kind":"WidgetList","items":[`+item+","+item+`]}`)); err != nil {
		t.Fatal(err)
	}
	if out.Len() < 2*MaxObjectBytes {
		t.Errorf("only %d bytes came out", out.Len())
	}
}

// TestI7_StreamedIsAsDecoded makes random answers with Secrets at every place
// and their members in any order, and holds the stream against the masker that
// decodes everything first.
func TestI7_StreamedIsAsDecoded(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4000) {
		r := rand.New(rand.NewPCG(seed, 7))
		resource := []string{"", "secrets", "widgets"}[r.IntN(3)]
		in := randomAnswer(r, 0, false)
		var out bytes.Buffer
		if err := scoped(t).JSONOf(Ref{resource, ""}, &out, iotest.HalfReader(strings.NewReader(in))); err != nil {
			t.Fatalf("seed %d: %v in %s", seed, err, in)
		}
		if leaks(out.String()) {
			t.Fatalf("seed %d, %q: the value passed\n in  %s\n out %s", seed, resource, in, out.String())
		}
		v, err := decode([]byte(in))
		whole, ok := v.(map[string]any)
		if err != nil || !ok {
			t.Fatalf("seed %d: no object: %s", seed, in)
		}
		reference{scoped(t)}.object(whole, kindOf(resource, ""), 0)
		if want := parse(t, mustEncode(t, whole)); !reflect.DeepEqual(parse(t, out.String()), want) {
			t.Fatalf("seed %d, %q:\n in   %s\n out  %s\n want %v", seed, resource, in, out.String(), want)
		}
	}
}

// randomAnswer gives an object whose Secrets hold the planted value. Each
// object says its kind, except where bare: there the list around it says it.
func randomAnswer(r *rand.Rand, depth int, bare bool) string {
	list := func(n int, f func() string) string {
		var all []string
		for range n {
			all = append(all, f())
		}
		return "[" + strings.Join(all, ",") + "]"
	}
	secret := func(bare bool) []string {
		members := []string{
			`"metadata":{"name":"s","annotations":{"a":"b","kubectl.kubernetes.io/last-applied-configuration":` +
				string(quoted(`{"kind":"Secret","data":{"k":"`+planted64+`"}}`)) + `}}`,
			`"data":{"k":"` + planted64 + `","n":null,"` + fmt.Sprint(r.IntN(9)) + `":"` + planted64 + `"}`,
			`"stringData":{"k":"` + planted + `"}`,
		}
		if !bare {
			members = append(members, `"kind":"Secret"`, `"apiVersion":"v1"`)
		}
		return members
	}
	pod := []string{
		`"kind":"Pod"`, `"metadata":{"name":"p","annotations":{"a/token":"` + planted + `","b":` + string(quoted(`[{"kind":"Secret","stringData":{"k":"`+planted+`"}}]`)) + `}}`,
		`"spec":{"adminPassword":"` + planted + `","env":[{"name":"A","value":"b"},{"value":"` + planted + `","name":"DB_PASSWORD"}],"args":["-v","--token","` + planted + `"]}`,
	}
	widget := []string{`"kind":"Widget"`, `"metadata":{"name":"w"}`, `"spec":{"n":12345678901234567890,"x":[true,null,{"data":1}]}`}
	var members []string
	pick := r.IntN(7)
	if depth > 2 {
		pick %= 3
	}
	switch {
	case bare || pick == 0:
		members = secret(bare)
	case pick == 1:
		members = widget
	case pick == 2:
		members = pod
	case pick == 6:
		members = []string{`"kind":"List"`, `"metadata":{}`, `"items":` + list(r.IntN(4), func() string { return randomAnswer(r, depth+1, false) })}
	case pick == 3:
		members = []string{`"kind":"SecretList"`, `"metadata":{}`, `"items":` + list(r.IntN(4), func() string { return randomAnswer(r, depth+1, true) })}
	case pick == 4:
		members = []string{`"kind":"Table"`, `"columnDefinitions":[]`, `"rows":` + list(r.IntN(4), func() string { return `{"cells":["a",1],"object":` + randomAnswer(r, depth+1, false) + `}` })}
	default:
		members = []string{`"type":"ADDED"`, `"object":` + randomAnswer(r, depth+1, false)}
	}
	r.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	return "{" + strings.Join(members, ", ") + "}"
}

func quoted(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always encodes
	}
	return b
}

func TestObjectOfPatch(t *testing.T) {
	t.Parallel()
	ops := parse(t, `[{"op":"replace","path":"/data/k","value":"`+planted64+`"},{"op":"add","path":"/data","value":{"a":["`+planted+`"]}}]`)
	out, err := encode(scoped(t).ValueOf(Ref{"secrets", ""}, ops))
	if err != nil {
		t.Fatal(err)
	}
	if leaks(string(out)) || !strings.Contains(string(out), "/data/k") {
		t.Errorf("got %s", out)
	}
	cm := map[string]any{"data": map[string]any{"k": "v"}}
	scoped(t).ObjectOf(Ref{"configmaps", ""}, cm)
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
// first: what that masks comes out masked, and the planted value not at all where
// that leaves none.
func FuzzJSON(f *testing.F) {
	for _, h := range hides {
		f.Add(h.in, h.resource)
	}
	for _, p := range places {
		f.Add(p.in, p.resource)
	}
	for _, p := range plain {
		f.Add(p.in, p.resource)
	}
	f.Add(`{"kind":"SecretList","items":[{},null,3]}`, "")
	f.Add(`{"kind":"Database","spec":{"users":[{"name":"a","secretWord":"`+planted+`"}],"any":{"k":{"deep":{"x":["`+planted+`"]}}}}}`, "databases")
	f.Add(`{"kind":"Pod","metadata":{"annotations":{"a/token":"`+planted+`","x":"[{\"kind\":\"Secret\",\"stringData\":{\"k\":\"`+planted+`\"}}]"}},"spec":{"password":"`+planted+`","env":[{"value":"`+planted+`","name":"DB_PASSWORD"}],"args":["--token","`+planted+`"]}}`, "pods")
	m, err := referenceConfig.New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in, resource string) {
		s := m.scope("run-1")
		var out bytes.Buffer
		err := s.JSONOf(Ref{resource, ""}, &out, strings.NewReader(in))
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
		if errors.Is(err, errKind) || errors.Is(err, errSyntax) && text(o["kind"]) == "Status" || errors.Is(err, errDepth) {
			return // it says too late what it is, or nests too deep
		}
		if err != nil {
			t.Fatalf("valid JSON was refused: %v", err)
		}
		if !json.Valid(out.Bytes()) {
			t.Fatalf("invalid JSON came out: %s", out.String())
		}
		was := parseRaw(t, in)
		reference{s}.object(o, kindOf(resource, ""), 0)
		want := mustEncode(t, o)
		if leaks(out.String()) && !leaks(want) {
			t.Fatalf("the value passed: %s\nwant %s", out.String(), want)
		}
		got := parseRaw(t, strings.TrimSpace(out.String()))
		if path, found := unmaskedAt(was, got, o); found {
			t.Fatalf("%s passed: %s\nwant %s", path, out.String(), want)
		}
		if text(o["kind"]) == "Secret" && o["items"] == nil && o["rows"] == nil {
			// Names and shapes stay. Elsewhere the walker looks at content too.
			for _, field := range []string{"data", "stringData"} {
				if !reflect.DeepEqual(leafKinds(at(got, field)), leafKinds(at(o, field))) {
					t.Fatalf("%s: got %s\nwant %s", field, out.String(), want)
				}
			}
		}
	})
}

// unmaskedAt gives where something came out as it was that should have been
// masked.
func unmaskedAt(was, got, want any) (path string, found bool) {
	switch w := want.(type) {
	case map[string]any:
		before, ok := was.(map[string]any)
		after, same := got.(map[string]any)
		if !ok || !same {
			return "", false // masked whole
		}
		for k := range w {
			if p, found := unmaskedAt(before[k], after[k], w[k]); found {
				return join(k, p), true
			}
		}
	case []any:
		before, ok := was.([]any)
		after, same := got.([]any)
		if !ok || !same || len(before) != len(w) || len(after) != len(w) {
			return "", false
		}
		for i := range w {
			if p, found := unmaskedAt(before[i], after[i], w[i]); found {
				return join(fmt.Sprintf("[%d]", i), p), true
			}
		}
	case string:
		before, ok := was.(string)
		after, same := got.(string)
		// What was quoted may come out in another order and spelling.
		return "", ok && same && HasMark(w) && !HasMark(before) && !HasMark(after)
	}
	return "", false
}

func mustEncode(t testing.TB, v any) string {
	t.Helper()
	b, err := encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// leafKinds puts "mark" in the place of every mark: a weak value's mark is bound
// to its Secret, which the reference knows nothing of.
func leafKinds(v any) any {
	switch v := v.(type) {
	case string:
		if HasMark(v) {
			return "mark"
		}
		return v
	case []any:
		for i := range v {
			v[i] = leafKinds(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = leafKinds(v[k])
		}
	}
	return v
}

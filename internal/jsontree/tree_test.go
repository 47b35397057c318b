package jsontree

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	kjson "sigs.k8s.io/json"
)

func mustParse(t testing.TB, text string) Value {
	t.Helper()
	v, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("%.100s: %v", text, err)
	}
	return v
}

func TestDecodeIsWhatKubernetesReads(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{}`, `[]`, `null`, `true`, `false`, `""`, `0`, `-0`, `1.0`, `1e3`, `-1.5E-3`,
		`9223372036854775807`, `9223372036854775808`, `-9223372036854775809`, `123456789012345678901234567890`,
		` { "a" : [ 1 , 2.5 , "x" , null , true , { "b" : { } } ] , "" : "" } `,
		`{"n\u0061me":"\u00e9\n\"\\\/\ud83d\ude00","é":"é"}`,
		`{"a":{"b":{"c":[[[{"d":[]}]]]}}}`,
	} {
		var want any
		if err := kjson.UnmarshalCaseSensitivePreserveInts([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		if got := mustParse(t, text).Decode(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v, want %#v", text, got, want)
		}
	}
}

// many is an object of n members, k0 and so on, and one more.
func many(n int, last string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"k%d":{"k1":[]},`, i)
	}
	return "{" + b.String() + last + "}"
}

func TestNamesThatDiffer(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`{"a":{"a":{"a":1}},"b":{"a":1}}`, `[{"a":1},{"a":1}]`, `{"a":1,"A":2,"\u0041a":3,"aA":4}`, `{"a\"":1,"a\\":2,"a\n":3,"b\"":4,"a/":5,"a":6,"a\u0000":7}`, `{"":1,"\u0000":2,"b":{"":1}}`,
		`{"1234567a":1,"1234567b":2,"0234567b":3,"00234567b":4}`, many(3*smallContainer, `"\u006b":0`), many(3, `"\u006b":0`)} {
		mustParse(t, text)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		``: "not JSON", `{`: "not JSON", `{"a":1,}`: "not JSON", `{} {}`: "more than one", `{}x`: "more than one", `{'a':1}`: "not JSON",
		`{"secret":1,"secret":2}`:                                         "given twice",
		`{"x":{"secret":1,"secre\u0074":2}}`:                              "given twice",
		`{"x":[{"secret":1,"a":{"secret":{}},"secret":2}]}`:               "given twice",
		`{` + strings.Repeat(`"secret":[{}],`, smallContainer) + `"x":1}`: "given twice",
		many(3*smallContainer, `"k7":0`):                                  "given twice",
		many(3*smallContainer, `"\u006b7":0`):                             "given twice",
		many(3, `"\u006b1":0`):                                            "given twice",
		"{\"a\":\"secret\xff\"}":                                          "not JSON",
		`{"a":"\ud800secret"}`:                                            "not JSON",
		`{"a":secret}`:                                                    "not JSON",
		`{"a":1e999}`:                                                     "out of range",
		`01`:                                                              "",
		strings.Repeat(`[`, 20_000):                                       "not JSON",
		strings.Repeat(`{"secret":`, 20_000):                              "not JSON",
		`["a` + "\n" + `"]`:                                               "not JSON",
		"\ufeff{}":                                                        "not JSON",
		`{"a":"` + strings.Repeat("x", 1<<20):                             "not JSON",
	} {
		_, err := Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, want %q", text, err, want)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error quotes the text: %v", err)
		}
	}
}

func TestValue(t *testing.T) {
	t.Parallel()
	v := mustParse(t, ` {"a":{"b":"x"},"n\u0061me":"\u00e9","l":[1,[2],{"c":null}],"s":"text"}`)
	if got := v.At("a", "b").String(); got != "x" {
		t.Errorf("a.b is %q", got)
	}
	if got := v.Get("name").String(); got != "é" {
		t.Errorf("name is %q", got)
	}
	for _, absent := range []Value{{}, v.Get("A"), v.At("a", "b", "c"), v.At("x", "y"), v.Get("l").Get("a"), v.Get("l").Item(3), v.Get("l").Item(-1), v.Get("a").Item(0)} {
		if absent.Kind() != 0 || absent.Raw() != nil || absent.Len() != 0 || absent.Decode() != nil || !absent.IsNull() || absent.String() != "" || absent.Object() != nil {
			t.Errorf("%+v is not absent", absent)
		}
	}
	c := v.Get("l").Item(2).Get("c")
	if c.Kind() != 'n' || !c.IsNull() || string(c.Raw()) != "null" {
		t.Errorf("c is %v %s", c.Kind(), c.Raw())
	}
	if got := string(v.Get("l").Item(1).Raw()); got != "[2]" {
		t.Errorf("l[1] is %s", got)
	}
	if from, to := v.Get("a").Span(); from != 6 || to != 15 {
		t.Errorf("a stands at %d to %d", from, to)
	}
	var names []string
	for name, m := range v.Members() {
		names = append(names, fmt.Sprint(name, m.Kind()))
	}
	if len(names) != 4 || v.Len() != 4 || v.Get("l").Len() != 3 {
		t.Errorf("%d members %q", v.Len(), names)
	}
}

// Large containers are found by an index: the same as one by one.
func TestLargeContainers(t *testing.T) {
	t.Parallel()
	var object, array []string
	for i := range 3 * smallContainer {
		object = append(object, fmt.Sprintf(`"k%d":{"i":%d,"more":[1,2,3]}`, i, i))
		array = append(array, fmt.Sprintf(`[[%d]]`, i))
	}
	v := mustParse(t, `{"o":{`+strings.Join(object, ",")+`},"a":[`+strings.Join(array, ",")+`]}`)
	for i := range 3 * smallContainer {
		if got := v.At("o", fmt.Sprint("k", i), "i").Decode(); got != int64(i) {
			t.Errorf("o.k%d.i is %v", i, got)
		}
		if got := v.Get("a").Item(i).Item(0).Item(0).Decode(); got != int64(i) {
			t.Errorf("a[%d] is %v", i, got)
		}
	}
	if v.At("o", "none").Kind() != 0 || v.Get("a").Item(3*smallContainer).Kind() != 0 {
		t.Error("what isn't there is found")
	}
}

// FuzzParse: what is read is what Kubernetes' own reader makes of it.
func FuzzParse(f *testing.F) {
	for _, text := range []string{`{"a":[1,2.5,"x\u0041",null,true,{"b":{}}]}`, `[`, `{"a":1,"a":2}`, `1e400`, `"\ud800"`, ` 1 `, `-`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		before := string(text)
		v, err := Parse(text)
		if string(text) != before {
			t.Fatal("the text has changed")
		}
		// Refused are the values that jsontext refuses, and numbers out of range.
		if valid := jsontext.Value(text).IsValid(); valid != (err == nil) && (!valid || !errors.Is(err, errNumber)) {
			t.Fatalf("%q: got %v, the library says %t", text, err, valid)
		}
		if err != nil {
			return
		}
		var want any
		if err := kjson.UnmarshalCaseSensitivePreserveInts(text, &want); err != nil {
			t.Fatalf("%q is read here, and not there: %v", text, err)
		}
		got := v.Decode()
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: got %#v, want %#v", text, got, want)
		}
		walk(t, v, got)
	})
}

// walk finds every value again by its name or place.
func walk(t *testing.T, v Value, want any) {
	t.Helper()
	switch want := want.(type) {
	case map[string]any:
		for name, w := range want {
			walk(t, v.Get(name), w)
		}
	case []any:
		for i, w := range want {
			walk(t, v.Item(i), w)
		}
	default:
		if got := v.Decode(); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %#v, want %#v", got, want)
		}
		if again, err := Parse(v.Raw()); err != nil || !reflect.DeepEqual(again.Decode(), want) {
			t.Fatalf("its text %q is another value, %v", v.Raw(), err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	text := []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"template":{"spec":{"containers":[{"name":"c","env":[` +
		strings.Repeat(`{"name":"SETTING","value":"some value or other"},`, 100) + `{"name":"LAST","value":"x"}]}]}}}}`)
	b.Run("tree", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Parse(text); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("tree and decode", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			v, err := Parse(text)
			if err != nil || v.Object() == nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("limit=maps", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			var m map[string]any
			if twice, err := kjson.UnmarshalStrict(text, &m, kjson.DisallowDuplicateFields); err != nil || len(twice) > 0 {
				b.Fatal(err)
			}
		}
	})
}

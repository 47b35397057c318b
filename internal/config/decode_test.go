package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

type inner struct {
	Name string          `json:"name"`
	Wait metav1.Duration `json:"wait"`
}

type sample struct {
	metav1.TypeMeta `json:",inline"`
	Title           string   `json:"title"`
	Count           int      `json:"count"`
	On              bool     `json:"on"`
	Tags            []string `json:"tags"`
	Items           []inner  `json:"items"`
	Opt             *inner   `json:"opt"`
	// Names are the file's own.
	Names map[string]string `json:"names"`
}

func (s *sample) Validate(*field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Title == "" {
		errs = append(errs, field.Required(field.NewPath("title"), "a title"))
	}
	for i, it := range s.Items {
		if it.Name == "" {
			errs = append(errs, field.Required(field.NewPath("items").Index(i).Child("name"), "a name"))
		}
	}
	return errs
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, in, want string
	}{
		{"a whole file is taken", "kind: Config\ntitle: a\ncount: 3\non: true\ntags: [x, y]\nitems:\n- name: n\n  wait: 5s\nopt: {name: o}\n", ""},
		{"every fault is told at its line, structure and meaning together",
			"titel: a\ncount: many\nitems:\n- wait: 5 parsecs\n- name: ok\n  extra: 1\n",
			"f.yaml:1: titel: unknown field\n" +
				"f.yaml:1: title: Required value: a title\n" +
				"f.yaml:2: count: must be a whole number\n" +
				"f.yaml:4: items[0].wait: unknown unit \" parsecs\" in duration \"5 parsecs\"\n" +
				"f.yaml:4: items[0].name: Required value: a name\n" +
				"f.yaml:6: items[1].extra: unknown field"},
		{"a wrong type is not reported a second time as missing", "title: 7\n", "f.yaml:1: title: must be a string (put it in quotes)"},
		{"a key given twice is refused", "title: a\ntitle: b\n", "f.yaml:2: title: given twice"},
		{"a list where an object belongs is refused", "title: a\nopt: [1]\n", "f.yaml:2: opt: must be an object"},
		{"an object where a list belongs is refused", "title: a\ntags: {a: b}\n", "f.yaml:2: tags: must be a list"},
		{"anchors are refused", "title: &a x\ntags: [*a]\n", "f.yaml:1: title: YAML anchors and aliases aren't taken: write the value out\nf.yaml:2: tags[0]: YAML anchors and aliases aren't taken: write the value out"},
		{"two documents are refused", "title: a\n---\ntitle: b\n", "f.yaml: must hold one YAML document"},
		{"an empty file is refused", "", "f.yaml: is empty"},
		{"a syntax error names its line", "title: a\n\tcount: 1\n", "f.yaml:2: found a tab character that violates indentation"},
		{"a null counts as absent", "title: a\nitems:\n", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var s sample
			err := Decode("f.yaml", []byte(tc.in), &s)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tc.want)
			}
		})
	}
}

func TestDecodeSetsEveryKind(t *testing.T) {
	t.Parallel()
	var s sample
	if err := Decode("f", []byte("kind: Config\ntitle: a\ncount: 3\non: true\ntags: [x, y]\nitems:\n- name: n\n  wait: 5s\nopt: {name: o}\nnames: {a: b, c.d: e}\n"), &s); err != nil {
		t.Fatal(err)
	}
	if s.Kind != "Config" || s.Count != 3 || !s.On || len(s.Tags) != 2 || s.Items[0].Wait.Duration != 5*time.Second || s.Opt.Name != "o" || len(s.Names) != 2 || s.Names["c.d"] != "e" {
		t.Errorf("got %+v", s)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("title: a\nitems: [{name: b, wait: 1s}]\n")
	f.Add("title: [a\n")
	f.Add("a: &x {b: *x}\n")
	f.Add("names: {a: b, a: c, d: [e], f: 1}\n")
	f.Fuzz(func(t *testing.T, in string) {
		var s sample
		err := Decode("f", []byte(in), &s)
		if err != nil && !errors.As(err, new(*Faults)) {
			t.Errorf("error %T is no list of faults", err)
		}
		if err != nil && strings.TrimSpace(err.Error()) == "" {
			t.Error("an empty message")
		}
	})
}

package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// including is a section that takes its items from files too.
type including struct {
	Files []string `json:"files"`
	read  []*items
}

type items struct {
	Items []inner `json:"items"`
}

func (s *including) Includes() []Include {
	var out []Include
	for i, name := range s.Files {
		in := &items{}
		s.read = append(s.read, in)
		out = append(out, Include{At: field.NewPath("files").Index(i), File: name, Into: in})
	}
	return out
}

func (s *including) Validate(*field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, in := range s.read {
		for j, it := range in.Items {
			if it.Name == "" {
				errs = append(errs, field.Required(field.NewPath("files").Index(i).Child("items").Index(j).Child("name"), "a name"))
			}
		}
		if len(in.Items) == 0 {
			errs = append(errs, field.Required(field.NewPath("files").Index(i).Child("items"), "an item"))
		}
	}
	return errs
}

func TestIncludes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("good.yaml", "items:\n- name: a\n- name: b\n")
	write("deeper/nameless.yaml", "items:\n- name: a\n- wait: 5s\n")
	write("typo.yaml", "items:\n- name: a\n  extra: b\nitem: []\n")
	write("twice.yaml", "items: [{name: a}]\nitems: []\n")
	write("broken.yaml", "items:\n\t- a\n")
	write("list.yaml", "- a\n")
	write("none.yaml", "other: 1\n")
	write("empty.yaml", "")
	write("large.yaml", "items: []\n#"+strings.Repeat("x", maxFileBytes))
	write("anchor.yaml", "items: &a [{name: a}]\n")
	outside := write("good2.yaml", "items: [{name: c}]\n")
	for _, tt := range []struct {
		files string
		want  string // %s is the folder
	}{
		{"good.yaml, ./good2.yaml", ""},
		{outside, ""},
		{"good.yaml, deeper/nameless.yaml", "%s/deeper/nameless.yaml:3: items[1].name: Required value: a name"},
		{"typo.yaml", "%s/typo.yaml:3: items[0].extra: unknown field\n%[1]s/typo.yaml:4: item: unknown field"},
		{"twice.yaml", "%s/twice.yaml:2: items: given twice"},
		{"broken.yaml", "%s/broken.yaml:2: found character that cannot start any token"},
		{"list.yaml", "%s/list.yaml:1: must be an object"},
		{"anchor.yaml", "%s/anchor.yaml:1: items: YAML anchors and aliases aren't taken: write the value out"},
		{"none.yaml", "%s/main.yaml:1: files[0].items: Required value: an item\n%[1]s/none.yaml:1: other: unknown field"},
		{"empty.yaml", "%s/empty.yaml: is empty"},
		{"large.yaml", "%s/large.yaml: is larger than 1048576 bytes"},
		{"missing.yaml", "%s/main.yaml:1: files[0]: can't be read: open %[1]s/missing.yaml: no such file or directory"},
		{strings.TrimSuffix(strings.Repeat("good.yaml, ", 101), ", "), "%s/main.yaml: names more than 100 files"},
	} {
		var s including
		got := ""
		if err := Load(write("main.yaml", "files: ["+tt.files+"]\n"), &s); err != nil {
			got = err.Error()
		}
		want := ""
		if tt.want != "" {
			want = fmt.Sprintf(tt.want, dir)
		}
		if got != want {
			t.Errorf("%.60s: got:\n%s\nwant:\n%s", tt.files, got, want)
		}
	}
	var s including
	if err := Load(write("main.yaml", "files: [good.yaml, good2.yaml]\n"), &s); err != nil || len(s.read) != 2 || len(s.read[0].Items) != 2 || s.read[1].Items[0].Name != "c" {
		t.Errorf("got %+v, %v", s.read, err)
	}
}

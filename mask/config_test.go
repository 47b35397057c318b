package mask

import (
	"bytes"
	"strings"
	"testing"
)

func TestConfiguredFields(t *testing.T) {
	t.Parallel()
	c := Config{
		Fields: []FieldRule{
			{Resource: "databases", Kind: "Database", Paths: []string{"spec.users.secretWord", `spec.x\.y`, "spec.any.*.deep", "status.whole"}},
			{Resource: "configmaps", Kind: "ConfigMap", Paths: []string{"data.special"}},
		},
		Names:           Names{Credentials: []string{"PIN"}, Plain: []string{"PUBLIC_TOKEN"}},
		DisabledFormats: []string{"github-pat"},
	}
	if errs := c.Validate(nil); len(errs) > 0 {
		t.Fatal(errs)
	}
	m, err := c.New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	s := m.Scope("r")
	run := func(resource, in string) string {
		var out bytes.Buffer
		if err := s.JSONOf(Ref{Resource: resource}, &out, strings.NewReader(in)); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	for _, tc := range []struct {
		resource, in string
		gone, kept   []string
	}{
		{"databases", `{"kind":"Database","metadata":{"name":"swordfish0"},"spec":{"users":[{"name":"a","secretWord":"swordfish1"},{"secretWord":"swordfish2"}],"x.y":"swordfish3","any":{"k":{"deep":4711,"other":"plain1"}}},"status":{"whole":{"a":["swordfish5",true]}}}`,
			[]string{"swordfish1", "swordfish2", "swordfish3", "4711", "swordfish5", "true"}, []string{"swordfish0", "plain1", `"name":"a"`}},
		{"databases", `{"kind":"Table","rows":[{"cells":["a-name","swordfish1",7],"object":{"kind":"PartialObjectMetadata"}}]}`, []string{"swordfish1", ",7"}, []string{"a-name"}},
		{"databases", `{"kind":"Status","reason":"Invalid","message":"spec.x: Invalid value: swordfish1"}`, []string{"swordfish1"}, []string{"Invalid"}},
		{"configmaps", `{"kind":"ConfigMap","data":{"special":"swordfish1","password":"swordfish2","plain":"kept"}}`, []string{"swordfish1", "swordfish2"}, []string{"kept"}},
		{"pods", `{"kind":"Pod","spec":{"containers":[{"env":[{"name":"PIN","value":"1234"},{"name":"PUBLIC_TOKEN","value":"shown"}],"args":["` + githubToken + `"]}]}}`, []string{"1234"}, []string{"shown", githubToken}},
	} {
		got := run(tc.resource, tc.in)
		for _, v := range tc.gone {
			if strings.Contains(got, v) {
				t.Errorf("%s passed: %s", v, got)
			}
		}
		for _, v := range tc.kept {
			if !strings.Contains(got, v) {
				t.Errorf("%s is gone: %s", v, got)
			}
		}
	}
	if !m.Names(Ref{Resource: "databases"}, []string{"spec", "users", "secretWord"}) || m.Names(Ref{Resource: "databases"}, []string{"metadata", "name"}) {
		t.Error("selectors are not told from each other")
	}
}

func TestWrongConfigurations(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]Config{
		"resource":           {Fields: []FieldRule{{Resource: "Databases", Kind: "D", Paths: []string{"a"}}}},
		"kind":               {Fields: []FieldRule{{Resource: "d", Kind: "DatabaseList", Paths: []string{"a"}}}},
		"paths":              {Fields: []FieldRule{{Resource: "d", Kind: "D"}}},
		"paths[0]":           {Fields: []FieldRule{{Resource: "d", Kind: "D", Paths: []string{"a..b"}}}},
		"metadata":           {Fields: []FieldRule{{Resource: "d", Kind: "D", Paths: []string{"metadata.name"}}}},
		"names.plain[0]":     {Names: Names{Credentials: []string{"a"}, Plain: []string{"A"}}},
		"disabledFormats[0]": {DisabledFormats: []string{"no-such-format"}},
	} {
		if errs := c.Validate(nil); len(errs) != 1 || !strings.Contains(errs[0].Error(), want) {
			t.Errorf("%s: %v", want, errs)
		}
	}
}

// A name may be as short as an admin likes, and stand where no rule looks.
func TestShortNamesAreMaskedWhereverTheyStand(t *testing.T) {
	t.Parallel()
	m, err := (&Config{Names: Names{Credentials: []string{"pw"}}}).New(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range []string{`{"kind":"Widget","status":{"db":{"pw":"hunter2hunter2"}}}`, `{"kind":"Widget","spec":{"pw":"hunter2hunter2"}}`} {
		var out bytes.Buffer
		if err := m.Scope("r").JSONOf(Ref{Resource: "widgets"}, &out, strings.NewReader(in)); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "hunter2") {
			t.Errorf("got %s", &out)
		}
	}
}

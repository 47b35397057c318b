package main

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseClaim(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, in, key string
		value         any
		fault         string
	}{
		{"a plain value is a string, numbers too", "n=7", "n", "7", ""},
		{"the value may hold an equals sign", "q=a=b", "q", "a=b", ""},
		{"an object is JSON", `act={"sub":"ada"}`, "act", map[string]any{"sub": "ada"}, ""},
		{"a list is JSON", `groups=["system:masters"]`, "groups", []any{"system:masters"}, ""},
		{"broken JSON is a fault that names the claim", "act={", "", nil, "the value of act is not JSON"},
		{"a claim without a value is a fault", "run", "", nil, "must be k=v"},
		{"a claim without a name is a fault", "=v", "", nil, "must be k=v"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			k, v, err := parseClaim(tc.in)
			if tc.fault == "" && err != nil || tc.fault != "" && (err == nil || !strings.Contains(err.Error(), tc.fault)) {
				t.Fatalf("err = %v, want %q", err, tc.fault)
			}
			if k != tc.key || !reflect.DeepEqual(v, tc.value) {
				t.Errorf("got %q = %#v, want %q = %#v", k, v, tc.key, tc.value)
			}
		})
	}
}

package main

import (
	"slices"
	"testing"

	"github.com/tipstaff-dev/tipstaff/ingest"
	"github.com/tipstaff-dev/tipstaff/webhook"
)

func TestOutcomesComeFromThisClusterAlone(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		clusters []string
		want     bool
	}{
		{[]string{"here"}, true},
		{[]string{"there"}, false},
		{[]string{"here", "there"}, false}, // there may post to /audit/here
		{nil, false},
	} {
		c := &Config{Cluster: "here", Ingest: &ingest.Config{Clusters: tt.clusters}}
		if got := c.onlyOwnEvents(); got != tt.want {
			t.Errorf("%v: got %v", tt.clusters, got)
		}
	}
}

func TestBreakGlassIsCountedOfTheRulesThatKnowIt(t *testing.T) {
	t.Parallel()
	got := breakGlassRules([]webhook.Rule{{Name: "a", BreakGlass: []string{"leads"}}, {Name: "b"}, {Name: "c", BreakGlass: []string{"leads"}}})
	if !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("%q", got)
	}
}

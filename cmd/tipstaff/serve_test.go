package main

import (
	"testing"

	"github.com/tipstaff-dev/tipstaff/ingest"
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

package harness

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"
)

// The harness's own test needs no Tipstaff: two control planes side by side,
// and nothing of either afterwards.
func TestTwoAtOnceAndNothingLeft(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var both []*Cluster
	for range 2 {
		c, err := Start(ctx, Options{WithoutTipstaff: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Stop)
		both = append(both, c)
	}
	for i, c := range both {
		r := c.Kubectl(ctx, c.Admin, "create", "namespace", "only-here-"+string(rune('a'+i)))
		if !r.OK() {
			t.Fatal(r.Output())
		}
	}
	if r := both[0].Kubectl(ctx, both[0].Admin, "get", "namespaces", "-o", "name"); strings.Contains(r.Stdout, "only-here-b") || !strings.Contains(r.Stdout, "only-here-a") {
		t.Errorf("the first control plane has namespaces:\n%s", r.Output())
	}
	if r := both[0].Kubectl(ctx, both[0].Admin, "delete", "namespace", "only-here-a", "--timeout=30s"); !r.OK() {
		t.Errorf("a namespace doesn't end: %s", r.Output())
	}
	for _, c := range both {
		c.Stop()
		for _, p := range []*process{c.etcd, c.apiserver, c.kcm} {
			if p.running() {
				t.Errorf("%s still runs", p.name)
			}
		}
		if _, err := os.Stat(c.Dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there (%v)", c.Dir, err)
		}
	}
}

package approvals

import (
	"fmt"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

// An alert on an increase must see the counter before it counts: one that
// appears at 1 has not increased.
func TestWhatIsAlertedOnIsThereAtZero(t *testing.T) {
	t.Parallel()
	s := world(t, "tipstaff", interceptor.Funcs{})
	s.MayBreakGlass("delete-namespace")
	sp := spec("a")
	sp.Rule, sp.BreakGlass = "gone-from-the-config", []string{"captains"}
	a := ensure(t, s, sp)
	if _, err := s.reconcile(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(s.metrics.broken, s.metrics.full)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			got = append(got, fmt.Sprintf("%s %s %v", f.GetName(), m.GetLabel()[0].GetValue(), m.GetCounter().GetValue()))
		}
	}
	want := []string{
		"tipstaff_approvals_break_glass_total delete-namespace 0",
		"tipstaff_approvals_break_glass_total gone-from-the-config 0",
		"tipstaff_approvals_full_total cluster 0",
		"tipstaff_approvals_full_total run 0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("there are %q", got)
	}
}

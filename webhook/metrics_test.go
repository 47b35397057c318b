package webhook

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Every answer to an agent is counted once, one that came of a panic too; other
// people's are not.
func TestMetricsSayHowChangesFare(t *testing.T) {
	t.Parallel()
	cfg := Config{Rules: []Rule{
		{Name: "no", Match: "request.name == 'no'", Verdict: Deny},
		{Name: "ask", Match: "request.name == 'ask'", Verdict: Hold, Approvers: []string{"sre"}},
	}}
	ap := &fakeApprovals{t: t, ensure: inPhase(v1alpha1.PhasePending), wait: func(context.Context) (*v1alpha1.Approval, error) { panic("a bug") }}
	w := newWebhook(t, ap, notRevoked, cfg)
	post(t, w, request(t, "CREATE /configmaps shop yes", "{}", ""))
	post(t, w, request(t, "CREATE /configmaps shop no", "{}", ""))
	post(t, w, request(t, "CREATE /configmaps shop ask", "{}", ""))
	human := request(t, "CREATE /configmaps shop yes", "{}", "")
	human.UserInfo.Username, human.UserInfo.Groups, human.UserInfo.Extra = "ada", []string{"people"}, nil
	post(t, w, human)

	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(w.Collectors()...)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			if f.GetName() == "tipstaff_admission_verdicts_total" || f.GetName() == "tipstaff_admission_refusals_total" {
				got = append(got, fmt.Sprintf("%s %v", strings.Join(labels, "/"), m.GetCounter().GetValue()))
			}
		}
	}
	slices.Sort(got)
	// Labels stand sorted by name: rule/verdict.
	// The reasons are there at 0 from the start.
	want := []string{
		"/allowed 1", "/denied 1", "Denied 0", "Expired 0", "Held 0", "Mask 0", "NoRun 0", "Revoked 0", "Rule 1",
		"TooMany 0", "Unchecked 1", "no/denied 1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("counted %q, want %q", got, want)
	}
}

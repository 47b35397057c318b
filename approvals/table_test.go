package approvals

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/jsonpath"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/manifests"
)

// What `kubectl get approvals -o wide` prints of one that waits: each column says something.
func TestKubectlsTableIsAnInbox(t *testing.T) {
	t.Parallel()
	b, err := manifests.CRDs.ReadFile("crds/tipstaff.dev_approvals.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				AdditionalPrinterColumns []struct {
					Name, Type, JSONPath string
					Priority             int
				}
			}
		}
	}
	if err := yaml.Unmarshal(b, &crd); err != nil {
		t.Fatal(err)
	}
	s := world(t, "tipstaff", interceptor.Funcs{})
	sp := spec("a")
	sp.Quorum, sp.Action, sp.Risk, sp.Agent.Owner = 2, "delete namespace", "high", "olga"
	a := ensure(t, s, sp)
	approveAs(t, s, a.Name, "alice", v1alpha1.VerdictApprove)
	if a, err = Find(t.Context(), s.client, a.Name); err != nil {
		t.Fatal(err)
	}
	if _, err := s.reconcile(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if a, err = Find(t.Context(), s.client, a.Name); err != nil {
		t.Fatal(err)
	}
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(a)
	if err != nil {
		t.Fatal(err)
	}
	plain, wide := map[string]string{}, map[string]string{}
	for _, c := range crd.Spec.Versions[0].AdditionalPrinterColumns {
		path := jsonpath.New(c.Name)
		if err := path.Parse("{" + c.JSONPath + "}"); err != nil {
			t.Fatal(err)
		}
		var cell bytes.Buffer
		if err := path.Execute(&cell, object); err != nil {
			t.Errorf("column %s: %v", c.Name, err)
		}
		// kubectl prints a date as its age, and one to come as <invalid>.
		if c.Type == "date" && c.Name != "Age" {
			t.Errorf("column %s is an age", c.Name)
		}
		wide[c.Name] = cell.String()
		if c.Priority == 0 {
			plain[c.Name] = cell.String()
		}
	}
	for name, want := range map[string]string{
		"Phase": "Pending", "Decision": "1 of 2 approved", "Expires": a.Spec.ExpiresAt.UTC().Format(time.RFC3339),
		"Risk": "high", "Action": "delete namespace", "Agent": sp.Agent.User, "Run": sp.Agent.Run,
	} {
		if plain[name] != want {
			t.Errorf("column %s says %q, want %q", name, plain[name], want)
		}
	}
	if wide["Owner"] != "olga" || wide["Rule"] != sp.Rule || !strings.Contains(wide["Approvers"], sp.Approvers[0]) {
		t.Errorf("-o wide says %q", wide)
	}
}

func TestTheInboxIsCutToTheTerminal(t *testing.T) {
	t.Parallel()
	a := pending()
	a.Spec.Action = `update deployments/scale "web" in namespace "` + strings.Repeat("n", 63) + `" to 0 replicas`
	a.Spec.Agent.User = "agent:ci:" + strings.Repeat("u", 200)
	for _, tc := range []struct {
		name    string
		columns int
		whole   bool
	}{
		{"a narrow one", 80, false},
		{"a wide one", 300, true},
		{"none", 0, true},
	} {
		var b bytes.Buffer
		if err := (&Table{Out: &b, Columns: tc.columns}).Write([]v1alpha1.Approval{*a}, noon); err != nil {
			t.Fatal(err)
		}
		rows := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
		if len(rows) != 2 || strings.Contains(rows[1], a.Spec.Action) != tc.whole {
			t.Errorf("%s: %q", tc.name, rows)
		}
		if tc.columns >= 300 && utf8.RuneCountInString(rows[1]) > tc.columns {
			t.Errorf("%s: a row of %d", tc.name, utf8.RuneCountInString(rows[1]))
		}
	}
}

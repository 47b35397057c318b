package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tipstaff-dev/tipstaff/e2e/harness"
)

func TestCommandSaysInOneLineWhatIsMissing(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	for _, tc := range []struct {
		name string
		as   harness.Kubeconfig
		args []string
		says string
	}{
		{"an approval that isn't there", shared.Alice, []string{"approve", "nosuch"}, "nosuch: not found"},
		{"somebody without the right", a.direct, []string{"approvals"}, "forbidden"},
		{"a run that isn't there", shared.Alice, []string{"runs", "show", "nosuch"}, `no run "nosuch"`},
		{"SQL that is wrong", shared.Alice, []string{"query", "SELECT nonsense("}, "Code: 62"},
		{"an agent that revokes", a.direct, []string{"revoke", "some-run", "--reason", "x"}, "forbidden"},
	} {
		r := tipstaff(t, tc.as, tc.args...)
		if r.Code != 1 || !strings.Contains(r.Stderr, tc.says) || strings.Count(strings.TrimSpace(r.Stderr), "\n") != 0 {
			t.Errorf("%s: code %d: %s", tc.name, r.Code, r.Output())
		}
	}
}

// TestDoctorFindsWhatIsWrong runs alone: it opens a hole that other tests look for.
func TestDoctorFindsWhatIsWrong(t *testing.T) {
	if r := tipstaff(t, shared.Admin, "doctor", "--clickhouse", shared.ClickHouseURL); !r.OK() {
		t.Fatalf("a right installation: %s", r.Output())
	}
	must(t, shared.Admin, "create", "clusterrole", "hole", "--verb=get", "--resource=secrets")
	must(t, shared.Admin, "create", "clusterrolebinding", "hole", "--clusterrole=hole", "--group=tipstaff:agents")
	r := tipstaff(t, shared.Admin, "doctor")
	must(t, shared.Admin, "delete", "clusterrolebinding", "hole")
	if r.Code != 1 || !strings.Contains(r.Stdout, "WRONG agents can't read Secrets on the direct path") || strings.Count(r.Stdout, "WRONG") != 1 {
		t.Errorf("code %d: %s", r.Code, r.Output())
	}
}

// TestDoctorFindsDrift runs alone: it changes whom the webhook is asked about.
func TestDoctorFindsDrift(t *testing.T) {
	doctor := func() harness.Result { return tipstaff(t, shared.Admin, "doctor", "--config", shared.ConfigFile()) }
	if r := doctor(); r.Code != 1 || !strings.Contains(r.Stdout, "tipstaff-captains") || strings.Count(r.Stdout, "WRONG") != 1 {
		t.Errorf("a rule names people who may not decide: code %d: %s", r.Code, r.Output())
	}
	must(t, shared.Admin, "create", "clusterrolebinding", "captains", "--clusterrole=tipstaff-approver", "--group=tipstaff-captains")
	defer must(t, shared.Admin, "delete", "clusterrolebinding", "captains")
	if r := doctor(); !r.OK() {
		t.Fatalf("a right installation: %s", r.Output())
	}
	was := writeFile(t, must(t, shared.Admin, "get", "validatingwebhookconfiguration", "tipstaff", "-o", "json"))
	must(t, shared.Admin, "patch", "validatingwebhookconfiguration", "tipstaff", "--type=json", "-p",
		`[{"op":"replace","path":"/webhooks/0/matchConditions/0/expression","value":"'tipstaff:agents' in request.userInfo.groups"}]`)
	drifted := doctor()
	must(t, shared.Admin, "replace", "--force", "-f", was)
	if drifted.Code != 1 || !strings.Contains(drifted.Stdout, "matchConditions") || !strings.Contains(drifted.Stdout, "tipstaff manifests webhooks") {
		t.Errorf("the webhook is not asked about the pods that are agents: code %d: %s", drifted.Code, drifted.Output())
	}

	must(t, shared.Admin, "create", "clusterrole", "too-much", "--verb=bind", "--resource=clusterroles.rbac.authorization.k8s.io", "--resource-name=admin")
	must(t, shared.Admin, "create", "clusterrolebinding", "too-much", "--clusterrole=too-much", "--user=tipstaff")
	r := doctor()
	must(t, shared.Admin, "delete", "clusterrolebinding", "too-much")
	if r.Code != 1 || !strings.Contains(r.Stdout, "WRONG Tipstaff can bind what the configuration allows") || strings.Count(r.Stdout, "WRONG") != 1 {
		t.Errorf("tipstaff may bind admin: code %d: %s", r.Code, r.Output())
	}
	eventually(t, 10*time.Second, func() error {
		if r := doctor(); !r.OK() {
			return errors.New(r.Output())
		}
		return nil
	})
}

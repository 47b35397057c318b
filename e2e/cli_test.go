package e2e

import (
	"strings"
	"testing"

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

func TestI8_NoMaskIsWrittenBack(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	grant(t, a.group(), "--verb=create,update,patch", "--resource=secrets")
	ns := namespace(t)
	must(t, shared.Admin, "create", "secret", "generic", "real", "-n", ns, "--from-literal=key=the-real-value")
	read := must(t, a.proxied, "get", "secret", "real", "-n", ns, "-o", "json")
	if !strings.Contains(read, "dGlwc3RhZmYtbWFza2Vk") {
		t.Fatalf("not masked: %s", read)
	}
	file := writeFile(t, read)
	refused(t, "data.key holds a mark", a.proxied, "replace", "-f", file)
	refused(t, "data.key holds a mask", a.direct, "replace", "-f", file)
	refused(t, "holds a mask", a.direct, "create", "configmap", "copy", "-n", ns, "--from-literal=key=tipstaff-masked-0123456789abcdef0123")
	got := must(t, shared.Admin, "get", "secret", "real", "-n", ns, "-o", "go-template={{base64decode .data.key}}")
	if got != "the-real-value" {
		t.Errorf("the real value is %q now", got)
	}
}

package e2e

import (
	"fmt"
	"testing"
	"time"
)

// A rule reads the namespace as the API server has it, one that is a moment old and
// one that has just changed included.
func TestRulesReadTheNamespace(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	ns := namespace(t)
	must(t, a.direct, "create", "configmap", "prod-before", "-n", ns)
	must(t, shared.Admin, "label", "namespace", ns, "tier=production")
	n := 0
	eventually(t, 10*time.Second, func() error {
		n++
		if r := kubectl(t, a.direct, "create", "configmap", fmt.Sprintf("prod-%d", n), "-n", ns); r.OK() {
			return fmt.Errorf("still let through: %s", r.Output())
		}
		return nil
	})
	refused(t, `denied by rule "test-production". Nothing has changed`, a.direct, "create", "configmap", "prod-after", "-n", ns)
	must(t, a.direct, "create", "configmap", "other", "-n", ns)
}

// A rule asks the API server's own authorizer about the agent.
func TestRulesAskWhatTheAgentMay(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	may, mayNot := newAgent(t), newAgent(t)
	grant(t, may.group(), "--verb=force", "--resource=configmaps")
	refused(t, `denied by rule "test-who-may-not-force". Nothing has changed`, mayNot.direct, "create", "configmap", "may-a", "-n", ns)
	must(t, may.direct, "create", "configmap", "may-b", "-n", ns)
}

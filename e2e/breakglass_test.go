package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// One captain alone lets through what needs two people: with a reason, seen by
// everybody, marked for ever. Nobody else does, an approver neither.
func TestI2_BreakGlass(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	ns := namespace(t)
	must(t, shared.Admin, "create", "clusterrolebinding", slug(t), "--clusterrole=tipstaff-approver", "--group=tipstaff-captains")
	cmd, ap, _ := a.hold(t, "two-broken", "create", "configmap", "two-broken", "-n", ns)
	decide := func(by, reason string) []string {
		d := fmt.Sprintf(`{"by":%q,"verdict":"Approve","reason":%q,"at":%q,"via":"kubectl","breakGlass":true}`, by, reason, time.Now().UTC().Format(time.RFC3339))
		return []string{"patch", "approval", ap.Name, "--subresource=status", "--type=merge", "-p", `{"status":{"decisions":[` + d + `]}}`}
	}
	captain := []string{"--as=carl", "--as-group=tipstaff-captains", "--as-group=system:authenticated"}
	refused(t, "none of the break-glass groups", shared.Alice, decide("alice", "I want to")...)
	refused(t, "with a reason", shared.Admin, append(decide("carl", " "), captain...)...)
	refused(t, "NotFound", shared.Admin, "get", "configmap", "two-broken", "-n", ns)
	must(t, shared.Admin, append(decide("carl", "the shop is down"), captain...)...)
	if r := cmd.Wait(); !r.OK() || !strings.Contains(r.Stderr, "approved by carl") {
		t.Errorf("approved by a captain, and still: %s", r.Output())
	}
	must(t, shared.Admin, "get", "configmap", "two-broken", "-n", ns)
	must(t, shared.Alice, "wait", "--for=condition=Used", "approval/"+ap.Name, "--timeout=10s")
	reason := must(t, shared.Alice, "get", "approval", ap.Name, "-o", `jsonpath={.status.conditions[?(@.type=="Approved")].reason}`)
	if reason != "BreakGlass" {
		t.Errorf("the condition's reason is %q", reason)
	}
	eventually(t, 10*time.Second, func() error {
		told := must(t, shared.Admin, "get", "events", "-n", "default", "--field-selector=involvedObject.name="+ap.Name, "-o", `jsonpath={range .items[*]}{.type} {.reason};{end}`)
		if strings.Count(told, "Warning BreakGlass;") != 1 || strings.Count(told, "Normal Used;") != 1 {
			return errors.New("events: " + told)
		}
		return nil
	})
}

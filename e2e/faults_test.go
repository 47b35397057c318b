package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The tests of this file stop or kill tipstaff, so none of them is parallel.

// restart brings tipstaff back, whatever happened to it.
func restart(t *testing.T) {
	t.Helper()
	if err := shared.StartTipstaff(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
}

func TestI4_KilledWhileHeld(t *testing.T) {
	a := newAgent(t)
	ns := namespace(t)
	cmd, ap, _ := a.hold(t, ns, "delete", "namespace", ns)
	if got := phase(t, ns); got != "Active" {
		t.Errorf("the held namespace is %s", got)
	}
	shared.KillTipstaff()
	r := cmd.Wait()
	restart(t)
	if r.OK() || r.Code < 0 {
		t.Errorf("with tipstaff gone the held call ends with code %d: %s", r.Code, r.Output())
	}
	if got := phase(t, ns); got != "Active" {
		t.Errorf("the namespace is %s", got)
	}
	// The question survives: approved now, the same request goes through.
	if r := tipstaff(t, shared.Alice, "approve", ap.Name); !r.OK() {
		t.Fatal(r.Output())
	}
	must(t, a.direct, "delete", "namespace", ns, "--wait=false")
}

func TestI5_StoppedTipstaffStopsAgentsOnly(t *testing.T) {
	a := newAgent(t)
	ns := namespace(t)
	must(t, a.direct, "create", "configmap", "before", "-n", ns) // and the API server knows the token now
	shared.StopTipstaff()
	began := time.Now()
	human := kubectl(t, shared.Admin, "create", "configmap", "human", "-n", ns)
	took := time.Since(began)
	agents := kubectl(t, a.direct, "create", "configmap", "agent", "-n", ns)
	restart(t)
	if !human.OK() || took > 5*time.Second {
		t.Errorf("a person's create with tipstaff down: %s after %s", human.Output(), took)
	}
	if agents.OK() || agents.Code < 0 || !strings.Contains(agents.Stderr, "changes.tipstaff.dev") {
		t.Errorf("an agent's create with tipstaff down: code %d: %s", agents.Code, agents.Output())
	}
	must(t, a.direct, "create", "configmap", "after", "-n", ns)
	got := must(t, shared.Admin, "get", "configmaps", "-n", ns, "-o", "name")
	for name, want := range map[string]bool{"before": true, "human": true, "agent": false, "after": true} {
		if strings.Contains(got, "configmap/"+name) != want {
			t.Errorf("config map %s exists: %t, want %t", name, !want, want)
		}
	}
}

func TestI6_KilledWhileEventsFlow(t *testing.T) {
	const before, after = 150, 50
	a := newAgent(t)
	ns := namespace(t)
	hc := client(t, "")
	create := func(i int) (int, error) {
		code, _, err := send(t.Context(), hc, http.MethodPost, shared.APIServerURL+"/api/v1/namespaces/"+ns+"/configmaps", a.token,
			fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c-%d"}}`, i))
		return code, err
	}

	sent := make(chan int, before)
	failed := make(chan error, 1)
	go func() {
		defer close(sent)
		for i := range before {
			code, err := create(i)
			if err != nil {
				failed <- err
				return
			}
			sent <- code
		}
	}()
	n, codes := 0, map[int]int{}
	for code := range sent {
		codes[code]++
		if n++; n == before/2 {
			shared.KillTipstaff() // while the rest is being sent
		}
	}
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
	restart(t)
	for i := range after {
		code, err := create(before + i)
		if err != nil {
			t.Fatal(err)
		}
		codes[code]++
	}
	if codes[http.StatusCreated] < before/2+after {
		t.Errorf("answers by code: %v, want at least %d times 201", codes, before/2+after)
	}
	count, err := shared.WaitForEvents(t.Context(), a.run, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d events, answers by code: %v", count, codes)
}

// writeFile writes text into a file of its own.
func writeFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "object.json")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// started runs `kubectl tipstaff` as alice until the test ends, and gives what it
// has written up to now. onTerminal gives it a terminal, and what is typed there.
func started(t *testing.T, onTerminal bool, typed string, args ...string) (written func() string, ended <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	name, args := filepath.Join(shared.Root, "bin", "kubectl"), append([]string{"tipstaff"}, args...)
	if onTerminal { // util-linux, there on every Debian
		name, args = "script", []string{"--quiet", "--flush", "--return", "--command", "stty cols 100; kubectl " + strings.Join(args, " "), "/dev/null"}
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(shared.Env(shared.Alice), "TERM=xterm")
	cmd.Stdin = strings.NewReader(typed)
	file, err := os.Create(filepath.Join(t.TempDir(), "written"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() {
		cancel()
		_ = file.Close()
	})
	return func() string {
		b, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}, done
}

func hasAll(text string, parts ...string) error {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return fmt.Errorf("%q lacks %q", text, p)
		}
	}
	return nil
}

// What one run asks for can be seen and decided together.
func TestApproverDecidesARunAtOnce(t *testing.T) {
	t.Parallel()
	p := newPlain(t, "all-held-")
	var names []string
	for i := range 3 {
		names = append(names, p.askHeld(t, http.MethodPost, "configmaps", plainMap(fmt.Sprint("map-", i), "v")))
	}
	r := tipstaff(t, shared.Alice, "approvals", "--run", p.run, "-o", "json")
	var list v1alpha1.ApprovalList
	if err := json.Unmarshal([]byte(r.Stdout), &list); err != nil || list.Kind != "ApprovalList" || len(list.Items) != 3 {
		t.Fatalf("%d approvals, %v: %s", len(list.Items), err, r.Output())
	}
	r = tipstaff(t, shared.Alice, "show", names[0], "-o", "yaml")
	var one v1alpha1.Approval
	if err := yaml.UnmarshalStrict([]byte(r.Stdout), &one); err != nil || one.Name != names[0] || one.Spec.Diff == "" {
		t.Errorf("%v: %s", err, r.Output())
	}
	if r = tipstaff(t, shared.Alice, "__complete", "approve", names[0], ""); hasAll(r.Stdout, names[1], names[2]) != nil || strings.Contains(r.Stdout, names[0]) {
		t.Errorf("completion gives %s", r.Output())
	}

	// Without a terminal nobody can be asked.
	r = tipstaff(t, shared.Alice, "approve", "--run", p.run)
	if r.Code != 1 || hasAll(r.Stderr, "no terminal", "--yes") != nil {
		t.Errorf("code %d: %s", r.Code, r.Output())
	}
	for _, name := range names {
		if a := approvalOf(t, name); a.Status.Phase != v1alpha1.PhasePending {
			t.Fatalf("%s is %s", name, a.Status.Phase)
		}
	}

	// One of several can fail; the others are decided all the same.
	r = tipstaff(t, shared.Alice, "deny", names[0], "nosuch", "--reason", "not this one")
	if r.Code != 1 || hasAll(r.Stdout, "denied "+names[0]) != nil || hasAll(r.Stderr, "nosuch: not found") != nil {
		t.Errorf("code %d: %s", r.Code, r.Output())
	}

	// At a terminal the rest is shown, in colour, and asked for.
	written, ended := started(t, true, "y\n", "approve", "--run", p.run)
	if err := <-ended; err != nil {
		t.Fatalf("%v: %s", err, written())
	}
	if err := hasAll(written(), names[1], names[2], "\x1b[32m+", "approve these 2? [y/N]", "approved "+names[1], "approved "+names[2]); err != nil {
		t.Error(err)
	}
	for i, want := range []int{http.StatusForbidden, http.StatusCreated, http.StatusCreated} {
		if code, status := p.ask(t, http.MethodPost, "configmaps", plainMap(fmt.Sprint("map-", i), "v")); code != want {
			t.Errorf("map-%d: %d %s, want %d", i, code, status.Message, want)
		}
	}
	for _, name := range names[1:] {
		a := approvalOf(t, name)
		if len(a.Status.Decisions) != 1 || a.Status.Decisions[0].By != "alice" {
			t.Errorf("%s has the decisions %+v", name, a.Status.Decisions)
		}
	}
}

func approvalOf(t *testing.T, name string) *v1alpha1.Approval {
	t.Helper()
	var a v1alpha1.Approval
	if err := json.Unmarshal([]byte(must(t, shared.Alice, "get", "approval", name, "-o", "json")), &a); err != nil {
		t.Fatal(err)
	}
	return &a
}

func TestApproverWatchesTheInbox(t *testing.T) {
	t.Parallel()
	p := newPlain(t, "all-held-")
	written, ended := started(t, false, "", "approvals", "--watch", "--run", p.run)
	eventually(t, 30*time.Second, func() error { return hasAll(written(), "NAME", "LEFT") })
	name := p.askHeld(t, http.MethodPost, "configmaps", plainMap("seen", "v"))
	eventually(t, 30*time.Second, func() error { return hasAll(written(), name, "Pending", `create configmap "seen"`) })
	other := newPlain(t, "all-held-").askHeld(t, http.MethodPost, "configmaps", plainMap("other", "v"))
	if r := tipstaff(t, shared.Bob, "deny", name, "--reason", "seen enough"); !r.OK() {
		t.Fatal(r.Output())
	}
	eventually(t, 30*time.Second, func() error { return hasAll(written(), "Denied") })
	if strings.Contains(written(), other) {
		t.Errorf("another run's is shown:\n%s", written())
	}
	select {
	case err := <-ended:
		t.Errorf("the watch ended: %v\n%s", err, written())
	default:
	}
}

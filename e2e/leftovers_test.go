package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tipstaff-dev/tipstaff/e2e/harness"
)

// beKilled starts a control plane, says where, and waits for its end.
func beKilled(ctx context.Context) int {
	c, err := harness.Start(ctx, harness.Options{})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(c.Dir)
	<-ctx.Done()
	return 1
}

// processesOf lists processes whose command line or environment names dir.
func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		cmd, _ := os.ReadFile(filepath.Join(e, "cmdline")) // gone meanwhile
		env, _ := os.ReadFile(filepath.Join(e, "environ")) // somebody else's
		if bytes.Contains(cmd, []byte(dir)) || bytes.Contains(env, []byte(dir)) {
			found = append(found, filepath.Base(e)+" "+strings.ReplaceAll(string(cmd[:min(len(cmd), 120)]), "\x00", " "))
		}
	}
	return found
}

// A second whole environment beside the shared one, whose owner is killed:
// nothing of it may live on.
func TestHarness_NothingLeftAfterSIGKILL(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dir, err := bufio.NewReader(out).ReadString('\n')
	dir = strings.TrimSpace(dir)
	if err != nil || !filepath.IsAbs(dir) {
		_ = cmd.Process.Kill()
		t.Fatalf("the second environment: %s (%v)", dir, err)
	}
	if got := processesOf(t, dir); len(got) < 4 {
		t.Errorf("the second environment runs only %q", got)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	eventually(t, 10*time.Second, func() error {
		if left := processesOf(t, dir); len(left) > 0 {
			return fmt.Errorf("still running: %q", left)
		}
		return nil
	})
	if err := os.RemoveAll(dir); err != nil { // the next harness would
		t.Error(err)
	}
}

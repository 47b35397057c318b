package harness

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// LoggedEvents are the audit events of one run in the API server's own audit
// log, as "audit id/stage".
func (c *Cluster) LoggedEvents(run string) (map[string]bool, error) {
	f, err := os.Open(c.AuditLog)
	if err != nil {
		return nil, fmt.Errorf("read the API server's audit log: %w", err)
	}
	defer func() { _ = f.Close() }() // read-only
	events := map[string]bool{}
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return events, nil // a last line without its end is still being written
		} else if err != nil {
			return nil, fmt.Errorf("read the API server's audit log: %w", err)
		}
		var ev struct {
			AuditID, Stage string
			User           struct{ Extra map[string][]string }
			Impersonated   struct{ Extra map[string][]string } `json:"impersonatedUser"`
		}
		if err := json.Unmarshal(line, &ev); err != nil {
			return nil, fmt.Errorf("read the API server's audit log: %w", err)
		}
		extra := ev.User.Extra
		if ev.Impersonated.Extra != nil {
			extra = ev.Impersonated.Extra
		}
		if r := extra[v1alpha1.ExtraRun]; len(r) == 1 && r[0] == run {
			events[ev.AuditID+"/"+ev.Stage] = true
		}
	}
}

// StoredEvents are the rows of one run in ClickHouse that the API server sent, as
// "audit id/stage" with how many rows there are of each.
func (c *Cluster) StoredEvents(ctx context.Context, run string) (map[string]int, error) {
	out, err := c.Query(ctx, "SELECT audit_id || '/' || toString(stage) AS id, count() AS n FROM tipstaff.audit_events FINAL WHERE source = '' AND run = '"+
		strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(run)+"' GROUP BY id FORMAT TabSeparated")
	if err != nil {
		return nil, err
	}
	events := map[string]int{}
	for line := range strings.Lines(out) {
		var id string
		var n int
		if _, err := fmt.Sscanf(line, "%s\t%d", &id, &n); err != nil {
			return nil, fmt.Errorf("read ClickHouse's answer %q: %w", line, err)
		}
		events[id] = n
	}
	return events, nil
}

// WaitForEvents returns when ClickHouse holds exactly the events of a run that
// the API server logged, each once, and says how many there are. The run must
// have ended: a request that is still being answered is in neither.
func (c *Cluster) WaitForEvents(ctx context.Context, run string, timeout time.Duration) (int, error) {
	last, agreed, n := errors.New("nothing was compared"), 0, 0
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, timeout, true, func(ctx context.Context) (bool, error) {
		logged, err := c.LoggedEvents(run)
		if err != nil {
			return false, err
		}
		stored, err := c.StoredEvents(ctx, run)
		if err != nil {
			last = err // ClickHouse may be on its way up
			return false, nil
		}
		if last = compareEvents(logged, stored); last != nil {
			agreed = 0
			return false, nil
		}
		// A client has its answer a moment before the API server logs the
		// request: only what stays equal is.
		n = len(logged)
		agreed++
		return agreed == 2, nil
	})
	if err != nil {
		return 0, fmt.Errorf("run %s isn't complete in ClickHouse after %s: %w (%w)", run, timeout, last, err)
	}
	return n, nil
}

// compareEvents says how what is stored differs from what was logged.
func compareEvents(logged map[string]bool, stored map[string]int) error {
	if len(logged) == 0 {
		return errors.New("the API server logged none of its requests")
	}
	var missing, twice, unknown []string
	for id := range logged {
		switch n := stored[id]; {
		case n == 0:
			missing = append(missing, id)
		case n > 1:
			twice = append(twice, id)
		}
	}
	for id := range stored {
		if !logged[id] {
			unknown = append(unknown, id)
		}
	}
	if len(missing)+len(twice)+len(unknown) > 0 {
		return fmt.Errorf("of %d logged events %d are missing %.200q, %d stored twice %.200q, %d unknown %.200q",
			len(logged), len(missing), missing, len(twice), twice, len(unknown), unknown)
	}
	return nil
}

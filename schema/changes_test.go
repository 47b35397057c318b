package schema

import (
	"errors"
	"reflect"
	"testing"
	"time"
)

func TestChanges(t *testing.T) {
	t.Parallel()
	_, conn := migrated(t)
	ctx := t.Context()
	at := func(d time.Duration) func(*Event) {
		return func(e *Event) { e.Received = t0.Add(d) }
	}
	verb := func(v string) func(*Event) { return func(e *Event) { e.Verb = v } }
	held := func(verdict string) func(*Event) {
		return func(e *Event) { e.Verb, e.Verdict, e.Approval, e.Code = "delete", verdict, "ap-1", 429 }
	}
	exec := func(stage string) func(*Event) {
		return func(e *Event) {
			e.Verb, e.APIGroup, e.Resource, e.Subresource, e.Stage, e.Code = "get", "", "pods", "exec", stage, 101
		}
	}
	body := func(e *Event) { e.ResponseObject = `{"a":"'; DROP TABLE x"}` }
	whole := sample("patch", at(time.Minute), verb("patch"), body, func(e *Event) { e.RequestObject, e.DryRun = "{}", true })
	events := []Event{
		sample("too early", verb("create"), at(-time.Microsecond)),
		sample("create", verb("create")),
		whole,
		sample("read without its object", at(2*time.Minute)),
		sample("read", at(2*time.Minute), body),
		sample("list", at(2*time.Minute), verb("list"), body),
		sample("failed read", at(2*time.Minute), body, func(e *Event) { e.Code = 404 }),
		sample("try 1", at(3*time.Minute), held("held")),
		sample("try 2", at(61*time.Minute), held("held")),
		sample("exec", at(2*time.Hour), exec("ResponseStarted")),
		sample("exec", at(2*time.Hour), exec("ResponseComplete")),
		sample("approved", at(150*time.Minute), held("approved")),
		sample("elsewhere", at(170*time.Minute), verb("create"), func(e *Event) { e.Cluster = "other" }),
		sample("last", at(3*time.Hour-time.Microsecond), verb("deletecollection"), func(e *Event) { e.Issuer, e.Run, e.RunKey = "", "", "" }),
		sample("too late", at(3*time.Hour), verb("create")),
		sample("no resource", at(time.Minute), verb("create"), func(e *Event) { e.Resource = "" }),
	}
	for range 2 {
		if err := Insert(ctx, conn, events); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(until time.Duration, cluster string) (ids []string, got map[string]Event, steps int) {
		t.Helper()
		got = map[string]Event{}
		err := Changes(ctx, conn, t0, t0.Add(until), cluster, func(time.Time) { steps++ }, func(ev *Event) error {
			ids = append(ids, ev.AuditID)
			got[ev.AuditID] = *ev
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return ids, got, steps
	}
	ids, got, steps := ask(3*time.Hour, "")
	want := []string{"create", "patch", "read", "exec", "approved", "elsewhere", "last"}
	if !reflect.DeepEqual(ids, want) || steps != 3 {
		t.Errorf("got  %q in %d steps\nwant %q in 3", ids, steps, want)
	}
	if got["exec"].Stage != "ResponseComplete" {
		t.Errorf("of the stages of one request the last counts: got %s", got["exec"].Stage)
	}
	p := got["patch"]
	if p.ResponseObject != whole.ResponseObject || p.RequestObject != "{}" || !p.DryRun || p.User != whole.User || !p.Received.Equal(whole.Received) {
		t.Errorf("got %+v", p)
	}
	// While it waited, the last try stands for it.
	if ids, _, _ := ask(2*time.Hour, "demo"); !reflect.DeepEqual(ids, []string{"create", "patch", "read", "try 2"}) {
		t.Errorf("got %q", ids)
	}
	// A long time without events is one step, not one for each hour.
	steps = 0
	early := []Event{sample("long ago", verb("create"), at(-20*365*24*time.Hour))}
	if err := Insert(ctx, conn, early); err != nil {
		t.Fatal(err)
	}
	ids = nil
	err := Changes(ctx, conn, time.Time{}, t0.Add(time.Hour), "demo", func(time.Time) { steps++ }, func(ev *Event) error {
		ids = append(ids, ev.AuditID)
		return nil
	})
	if want := []string{"long ago", "too early", "create", "patch", "read", "try 1"}; err != nil || !reflect.DeepEqual(ids, want) || steps > 5 {
		t.Errorf("got %q in %d steps, %v; want %q in few", ids, steps, err, want)
	}
	stop := errors.New("enough")
	err = Changes(ctx, conn, t0, t0.Add(time.Hour), "", func(time.Time) {}, func(*Event) error { return stop })
	if !errors.Is(err, stop) {
		t.Errorf("got %v, want the error of the one who reads", err)
	}
}

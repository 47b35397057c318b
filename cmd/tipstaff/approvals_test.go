package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Help lands in tickets and in agents' contexts.
func TestHelpPrintsNoPassword(t *testing.T) {
	t.Setenv("TIPSTAFF_CLICKHOUSE", "http://tipstaff:hunter2@127.0.0.1:1/")
	root := rootCommand()
	if got := root.PersistentFlags().Lookup("clickhouse").Value.String(); !strings.Contains(got, "hunter2") {
		t.Fatalf("the environment isn't read: %q", got)
	}
	for _, args := range [][]string{{"--help"}, {"approve", "--help"}, {"runs", "show", "--help"}, {"rules", "test", "--help"}, {"query", "--nope"}, {"help", "doctor"}} {
		out, err := command(t, args...)
		if err != nil {
			out += err.Error()
		}
		if out == "" || strings.Contains(out, "hunter2") {
			t.Errorf("%q prints %q", args, out)
		}
	}
}

func TestNamesAreTakenAsTheyArePrinted(t *testing.T) {
	t.Parallel()
	got := namesOf([]string{"a1", "approval.tipstaff.dev/a2", "approvals.tipstaff.dev/a3", "approval/a4", "approvals/a5", "apr/a6", "grant.tipstaff.dev/a7", "approval", "approval/"})
	want := []string{"a1", "a2", "a3", "a4", "a5", "a6", "grant.tipstaff.dev/a7", "approval", ""}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestNamesThatCantBeMeantAreRefused(t *testing.T) {
	t.Parallel()
	// No API server is asked: each is refused before.
	for _, verb := range [][]string{{"show"}, {"approve"}, {"deny", "--reason", "r"}} {
		for want, names := range map[string][]string{
			"a name is empty":       {"a1", "approval/"},
			"a name is given twice": {"a1", "approval.tipstaff.dev/a1"},
		} {
			args := append(append(slices.Clone(verb), "--server", "https://127.0.0.1:1"), names...)
			if _, err := command(t, args...); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", args, err, want)
			}
		}
	}
}

func TestAWatchShowsARowForEachChange(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	show := (&options{isTerminal: isTerminal}).shower(&out)
	a := v1alpha1.Approval{ObjectMeta: metav1.ObjectMeta{Name: "a1"}, Spec: v1alpha1.ApprovalSpec{Quorum: 2, ExpiresAt: metav1.NewTime(time.Now().Add(time.Hour))}}
	pending, voted, used := *a.DeepCopy(), *a.DeepCopy(), *a.DeepCopy()
	pending.Status.Phase, voted.Status.Phase, used.Status.Phase = v1alpha1.PhasePending, v1alpha1.PhasePending, v1alpha1.PhaseUsed
	voted.Status.Decisions = []v1alpha1.Decision{{By: "alice", Verdict: v1alpha1.VerdictApprove}}
	used.Status.Decisions, used.Status.Use = voted.Status.Decisions, &v1alpha1.Use{}
	for _, as := range [][]v1alpha1.Approval{nil, {pending}, {pending}, {voted}, {voted}, {used}, {used}} {
		if err := show(as); err != nil {
			t.Fatal(err)
		}
	}
	if rows := strings.Count(out.String(), "a1 "); rows != 3 || strings.Count(out.String(), "NAME") != 1 {
		t.Errorf("%d rows:\n%s", rows, &out)
	}
}

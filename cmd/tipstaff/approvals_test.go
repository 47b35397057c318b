package main

import (
	"slices"
	"strings"
	"testing"
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

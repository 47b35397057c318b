package main

import (
	"strings"
	"testing"
	"time"
)

func TestRevokeSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"no reason", []string{"7"}, `"reason" not set`},
		{"nobody", []string{"--reason", "r"}, "names somebody"},
		{"two runs", []string{"7", "8", "--reason", "r"}, "at most 1 arg"},
		{"an empty run, as of an unset variable", []string{"", "--owner", "ann", "--reason", "r"}, "RUN is empty"},
		{"a whole issuer, as of an unset variable", []string{"--issuer", "ci", "--reason", "r"}, "--all-runs"},
		{"an empty flag", []string{"7", "--owner", "", "--reason", "r"}, "--owner is empty"},
		{"an empty end", []string{"7", "--until", "", "--reason", "r"}, "--until is empty"},
		{"two ends", []string{"7", "--for", "1h", "--until", "2026-01-02T15:04:05Z", "--reason", "r"}, "none of the others can be"},
		{"no time at all", []string{"7", "--for", "0s", "--reason", "r"}, "at least a second"},
		{"a time that is over", []string{"7", "--until", "2020-01-02T15:04:05Z", "--reason", "r"}, "is over already"},
		{"no time", []string{"7", "--until", "tomorrow", "--reason", "r"}, "a time such as"},
	} {
		// No API server is asked: each is refused before.
		root := rootCommand()
		root.SetArgs(append([]string{"revoke", "--server", "https://127.0.0.1:1"}, tc.args...))
		if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

func TestEndOf(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		name, until string
		lasts       time.Duration
		limited     bool
		want        string
	}{
		{"nothing said is for good", "", 0, false, ""},
		{"for so long", "", 2 * time.Hour, true, "2026-01-02T14:00:00Z"},
		{"until then", "2026-02-03T04:05:06+01:00", 0, false, "2026-02-03T03:05:06Z"},
	} {
		at, err := endOf(tc.until, tc.lasts, tc.limited, now)
		got := ""
		if at != nil {
			got = at.UTC().Format(time.RFC3339)
		}
		if err != nil || got != tc.want {
			t.Errorf("%s: %q %v", tc.name, got, err)
		}
	}
}

package main

import (
	"context"
	"errors"
	"testing"

	"github.com/tipstaff-dev/tipstaff/internal/conformance"
)

func TestConformanceVerdict(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		report conformance.Report
		err    error
		want   string
		notRun bool
	}{
		{"nothing leaked", conformance.Report{OK: 1, Skipped: 9}, nil, "", false},
		{"a leak", conformance.Report{OK: 1, Leaks: 2}, nil, "2 leaks, 0 values overwritten", false},
		{"a mark was written back", conformance.Report{OK: 1, Overwritten: 1}, nil, "0 leaks, 1 values overwritten", false},
		{"all was skipped", conformance.Report{Skipped: 9}, nil, "nothing could be read: see why the checks were skipped", true},
		{"it was interrupted", conformance.Report{OK: 1}, context.Canceled, "context canceled", true},
		{"a leak before it was interrupted", conformance.Report{Leaks: 1}, context.Canceled, "1 leaks, 0 values overwritten\ncontext canceled", false},
	} {
		err := conformanceVerdict(&tc.report, tc.err)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != tc.want || errors.As(err, new(notRun)) != tc.notRun {
			t.Errorf("%s: %q, %v", tc.name, got, err)
		}
	}
}

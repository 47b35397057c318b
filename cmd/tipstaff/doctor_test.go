package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tipstaff-dev/tipstaff/approvals"
)

// What the caller may not look at isn't wrong, and isn't right.
func TestDoctorSaysWhatItCouldNotLookAt(t *testing.T) {
	t.Parallel()
	says := func(name string, err error) check {
		return check{name, func(context.Context) error { return err }}
	}
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "", nil)
	all := []check{
		says("fine", nil), says("broken", errors.New("no webhook")),
		says("may not", fmt.Errorf("list: %w", forbidden)), says("may not either", fmt.Errorf("list: %w", approvals.ErrForbidden)),
	}
	var got []string
	for _, f := range examine(t.Context(), all) {
		got = append(got, fmt.Sprint(f.Check, " ", f.OK, f.Unknown))
	}
	if !slices.Equal(got, []string{"fine true false", "broken false false", "may not false true", "may not either false true"}) {
		t.Errorf("%q", got)
	}
	for _, tc := range []struct {
		checks []check
		want   string
	}{
		{all[:1], ""},
		{all[:2], "1 of 2 checks found something wrong"},
		{all, "1 of 4 checks found something wrong, 2 of 4 may not look: that takes the cluster admin"},
		{all[2:], "2 of 2 may not look: that takes the cluster admin"},
	} {
		got := ""
		if err := verdictOf(examine(t.Context(), tc.checks)); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

func TestDoctorWithoutAnAPIServerSaysSoOnce(t *testing.T) {
	t.Parallel()
	out, err := command(t, "doctor", "--server", "https://127.0.0.1:1")
	if err == nil || !strings.HasPrefix(err.Error(), "reach the API server: ") || out != "" {
		t.Errorf("%v, %q", err, out)
	}
}

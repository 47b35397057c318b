package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

func TestAGrantNamesARunOrAnAgent(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"nobody", nil, "name a run and its --issuer, or an --agent"},
		{"a run without its issuer", []string{"4711"}, "a run needs its --issuer: two issuers may have runs of the same id"},
		{"both", []string{"4711", "--agent", "agent:a:b"}, "name a run and its --issuer, or an --agent, not both"},
		{"an agent and an issuer", []string{"--agent", "agent:a:b", "--issuer", "a"}, "name a run and its --issuer, or an --agent, not both"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			cmd := grantCommand(&options{})
			cmd.SetArgs(append(tc.args, "--role", "view", "--in", "shop", "--reason", "x"))
			cmd.SilenceErrors, cmd.SilenceUsage = true, true
			if err := cmd.Execute(); err == nil || err.Error() != tc.want {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestGrantsTable(t *testing.T) {
	t.Parallel()
	at := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	var b bytes.Buffer
	err := writeGrants(&b, []v1alpha1.Grant{
		{
			ObjectMeta: metav1.ObjectMeta{Name: "grant-a"},
			Spec:       v1alpha1.GrantSpec{Run: "47\x1b[2J11", Issuer: "github", ClusterRole: "view", Namespaces: []string{"shop", "test"}, Path: v1alpha1.PathProxy, Reason: "why\nnot"},
			Status:     v1alpha1.GrantStatus{Phase: v1alpha1.GrantRefused, ExpiresAt: &at, Message: "no"},
		},
		{
			ObjectMeta: metav1.ObjectMeta{Name: "grant-b", CreationTimestamp: at},
			Spec:       v1alpha1.GrantSpec{Agent: "agent:github:acme/shop", ClusterRole: "edit", Namespaces: []string{"*"}, Path: v1alpha1.PathDirect, TTL: metav1.Duration{Duration: time.Hour}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("%q", lines)
	}
	for i, want := range [][]string{
		{"NAME", "UNTIL"},
		{"grant-a", "Refused", "shop,test", "run 47\uFFFD[2J11 of github", "2026-01-02T03:04:05Z", "why\uFFFDnot (no)"},
		{"grant-b", "agent:github:acme/shop", "*", "direct", "2026-01-02T04:04:05Z"},
	} {
		for _, w := range want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("line %q lacks %q", lines[i], w)
			}
		}
	}
}

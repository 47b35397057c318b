package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tipstaff-dev/tipstaff/e2e/harness"
	"github.com/tipstaff-dev/tipstaff/e2e/issuer"
)

// whoami is who the API server takes a token for; false when it takes none.
func whoami(t *testing.T, name, token string) (user string, groups []string, ok bool) {
	t.Helper()
	k, err := shared.Agent(name, token, harness.Direct)
	if err != nil {
		t.Fatal(err)
	}
	r := kubectl(t, k, "auth", "whoami", "-o", "json")
	if !r.OK() {
		if !strings.Contains(r.Stderr, "Unauthorized") && !strings.Contains(r.Stderr, "logged in") {
			t.Fatalf("whoami: %s", r.Output())
		}
		return "", nil, false
	}
	var review struct {
		Status struct {
			UserInfo struct {
				Username string
				Groups   []string
			}
		}
	}
	if err := json.Unmarshal([]byte(r.Stdout), &review); err != nil {
		t.Fatal(err)
	}
	return review.Status.UserInfo.Username, review.Status.UserInfo.Groups, true
}

func TestI1_WhatATokenYields(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		run     string
		claims  issuer.Claims
		refused bool
	}{
		{"an honest token is one run of one agent", "run-1", issuer.Claims{Subject: "coder"}, false},
		{"a subject that is a system group stays behind the agents' prefix", "run-2", issuer.Claims{Subject: "system:masters"}, false},
		{"groups that a token claims don't count", "run-3", issuer.Claims{Private: map[string]any{"groups": []string{"system:masters", "tipstaff:proxied"}}}, false},
		{"a username that a token claims doesn't count", "run-4", issuer.Claims{Private: map[string]any{"username": "system:admin", "user": "system:admin", "profile": "system:masters"}}, false},
		{"a run that looks like a group is only a run", "system:masters", issuer.Claims{}, false},
		{"a token without a run is refused", "", issuer.Claims{Private: map[string]any{"run": ""}}, true},
		{"a token for somebody else is refused", "run-5", issuer.Claims{Audiences: []string{"elsewhere"}}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			token, err := shared.Mint(t.Context(), tc.run, tc.claims)
			if err != nil {
				t.Fatal(err)
			}
			user, groups, ok := whoami(t, slug(t), token)
			if !ok {
				if strings.HasPrefix(tc.name, "an honest") {
					t.Fatal("the token is refused")
				}
				return // no identity is within the scope
			}
			if tc.refused {
				t.Fatalf("the token yields %s %q", user, groups)
			}
			if !strings.HasPrefix(user, "agent:"+harness.IssuerName+":") {
				t.Errorf("the token yields the user %q", user)
			}
			for _, g := range groups {
				// The API server adds system:authenticated to everyone it knows.
				fine := g == "system:authenticated" || g == "tipstaff:agents" || g == "tipstaff:profile:default" || strings.HasPrefix(g, "tipstaff:run:")
				if !fine {
					t.Errorf("the token yields the group %q", g)
				}
			}
		})
	}
}

func TestI1_NoWayAroundTheScope(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	refused(t, "forbidden", a.direct, "get", "secrets", "-A")
	refused(t, "forbidden", a.direct, "get", "secrets", "-A", "--as=admin", "--as-group=system:masters")
	// The proxy removes impersonation from outside (or refuses it): nobody else comes out.
	r := kubectl(t, a.proxied, "auth", "whoami", "--as=admin", "--as-group=system:masters")
	if r.OK() && (!strings.Contains(r.Stdout, "agent:"+harness.IssuerName+":") || strings.Contains(r.Stdout, "system:masters")) {
		t.Errorf("an impersonating agent is, through the proxy:\n%s", r.Stdout)
	}
}

package clusteragents

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

var conf = &Config{
	ServiceAccounts: []string{"ops/bot"},
	Namespaces:      []string{"agents"},
	Groups:          []string{"ai-agents", "o'brien's \\ \"team\""},
}

// pod is the identity that the API server gives a token bound to a pod.
func pod(namespace, name string) user.Info {
	return (&serviceaccount.ServiceAccountInfo{
		Namespace: namespace, Name: name, PodName: "web-0", PodUID: "6f1c", CredentialID: "JTI=1", NodeName: "n1",
	}).UserInfo()
}

func TestAgentOf(t *testing.T) {
	t.Parallel()
	token := v1alpha1.Agent{User: "agent:ci:bot", Issuer: "ci", Run: "r", Owner: "olga", Profile: "p"}
	podExtra := pod("agents", "a").GetExtra()
	of := func(ns, name string) v1alpha1.Agent {
		return v1alpha1.Agent{
			User: "system:serviceaccount:" + ns + ":" + name, Issuer: v1alpha1.IssuerKubernetes,
			Run: "6f1c", Task: "pod " + ns + "/web-0", CredentialID: "JTI=1",
		}
	}
	tests := []struct {
		name string
		user user.Info
		want v1alpha1.Agent // empty means no agent
	}{
		{"a token's agent is read from its extra", &user.DefaultInfo{Name: token.User, Groups: token.Groups(), Extra: token.Extra()}, token},
		{"a named service account's run is its pod", pod("ops", "bot"), of("ops", "bot")},
		{"so is that of any service account in a named namespace", pod("agents", "whoever"), of("agents", "whoever")},
		{"a service account next to a named one is no agent", pod("ops", "bot2"), v1alpha1.Agent{}},
		{"a service account of that name elsewhere is no agent", pod("shop", "bot"), v1alpha1.Agent{}},
		{"a namespace that is named alike holds none", pod("agents-2", "a"), v1alpha1.Agent{}},
		{"a token that is bound to no pod has no run", serviceaccount.UserInfo("ops", "bot", "u"), v1alpha1.Agent{User: "system:serviceaccount:ops:bot", Issuer: v1alpha1.IssuerKubernetes}},
		{
			"half a pod is none", &user.DefaultInfo{Name: "system:serviceaccount:ops:bot", Extra: map[string][]string{extraPodName: {"web-0"}, extraPodUID: {}}},
			v1alpha1.Agent{User: "system:serviceaccount:ops:bot", Issuer: v1alpha1.IssuerKubernetes},
		},
		{"a member of a named group has no run", &user.DefaultInfo{Name: "carol", Groups: []string{"ai-agents"}}, v1alpha1.Agent{User: "carol", Issuer: v1alpha1.IssuerKubernetes}},
		{
			"a pod beside a name that is no service account's counts for nothing",
			&user.DefaultInfo{Name: "carol", Groups: []string{"ai-agents"}, Extra: podExtra},
			v1alpha1.Agent{User: "carol", Issuer: v1alpha1.IssuerKubernetes, CredentialID: "JTI=1"},
		},
		{
			"what a pod's extra says of run and owner counts for nothing",
			&user.DefaultInfo{Name: "system:serviceaccount:ops:bot", Extra: map[string][]string{v1alpha1.ExtraRun: {"r"}, v1alpha1.ExtraIssuer: {"ci"}, v1alpha1.ExtraOwner: {"olga"}}},
			v1alpha1.Agent{User: "system:serviceaccount:ops:bot", Issuer: v1alpha1.IssuerKubernetes},
		},
		{"a person is no agent", &user.DefaultInfo{Name: "alice", Groups: []string{"system:authenticated"}, Extra: podExtra}, v1alpha1.Agent{}},
		{"a user who is called as the namespace's group is no agent", &user.DefaultInfo{Name: "system:serviceaccounts:agents"}, v1alpha1.Agent{}},
		{"a group that is called as the service account makes none", &user.DefaultInfo{Name: "x", Groups: []string{"system:serviceaccount:ops:bot"}}, v1alpha1.Agent{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, ok := conf.AgentOf(tt.user.GetName(), tt.user.GetGroups(), tt.user.GetExtra())
			if got != tt.want || ok != (tt.want != v1alpha1.Agent{}) {
				t.Errorf("got %+v (%v), want %+v", got, ok, tt.want)
			}
			if is := conf.IsAgent(tt.user.GetName(), tt.user.GetGroups()); is != ok {
				t.Errorf("IsAgent says %v", is)
			}
			// Without a config only tokens make agents.
			_, ok = (*Config)(nil).AgentOf(tt.user.GetName(), tt.user.GetGroups(), tt.user.GetExtra())
			if ok != (tt.want == token) {
				t.Errorf("without a config: %v", ok)
			}
		})
	}
}

func TestIsAgentName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"agent:ci:bot": true, "agent:ci:a:b": true, "agent:ci:": false, "agent::bot": false, "agent:ci": false, "agent": false,
		"system:serviceaccount:ops:bot": true, "system:serviceaccount:agents:any": true, "system:serviceaccount:agents:": false,
		"system:serviceaccount:ops:bot2": false, "system:serviceaccount:shop:bot": false, "system:serviceaccount::bot": false,
		"alice": false, "": false, "system:serviceaccounts:agents": false, "ops/bot": false, "Agent:ci:bot": false,
	} {
		if got := conf.IsAgentName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
	if (*Config)(nil).IsAgentName("system:serviceaccount:ops:bot") || !(*Config)(nil).IsAgentName("agent:ci:bot") {
		t.Error("without a config the names that tokens yield are agents', no others")
	}
}

func TestSubjects(t *testing.T) {
	t.Parallel()
	users, groups := conf.Subjects()
	if !slices.Equal(users, []string{"system:serviceaccount:ops:bot"}) ||
		!slices.Equal(groups, []string{"tipstaff:agents", "system:serviceaccounts:agents", "ai-agents", "o'brien's \\ \"team\""}) {
		t.Errorf("%q %q", users, groups)
	}
	users, groups = (*Config)(nil).Subjects()
	if len(users) > 0 || !slices.Equal(groups, []string{"tipstaff:agents"}) {
		t.Errorf("%q %q", users, groups)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		conf Config
		want string // part of the fault; empty means fine
	}{
		{"nothing is fine", Config{}, ""},
		{"a complete one is fine", *conf, ""},
		{"a service account without its namespace", Config{ServiceAccounts: []string{"bot"}}, "serviceAccounts[0]"},
		{"a service account by its username", Config{ServiceAccounts: []string{"system:serviceaccount:ops:bot"}}, "serviceAccounts[0]"},
		{"tipstaff as its own agent", Config{ServiceAccounts: []string{"ops/bot", "tipstaff-system/tipstaff"}}, "serviceAccounts[1]"},
		{"the namespace of the controllers", Config{Namespaces: []string{"kube-system"}}, "namespaces[0]"},
		{"tipstaff's namespace", Config{Namespaces: []string{"tipstaff-system"}}, "namespaces[0]"},
		{"a pattern of namespaces", Config{Namespaces: []string{"team-*"}}, "namespaces[0]"},
		{"a namespace twice", Config{Namespaces: []string{"a", "a"}}, "namespaces[1]"},
		{"an empty group", Config{Groups: []string{""}}, "groups[0]"},
		{"everyone", Config{Groups: []string{"system:authenticated"}}, "groups[0]"},
		{"all service accounts", Config{Groups: []string{"system:serviceaccounts"}}, "groups[0]"},
		{"cluster admins", Config{Groups: []string{"system:masters"}}, "groups[0]"},
		{"the controllers by their group", Config{Groups: []string{"system:serviceaccounts:kube-system"}}, "groups[0]"},
		{"a namespace by its group is fine", Config{Groups: []string{"system:serviceaccounts:agents"}}, ""},
		{"a group that tipstaff gives out", Config{Groups: []string{"tipstaff:run:ci:1"}}, "groups[0]"},
		{"a group with a NUL", Config{Groups: []string{"a\x00b"}}, "groups[0]"},
		{"a group that is no text", Config{Groups: []string{"a\xffb"}}, "groups[0]"},
		{"more than the API server can match cheaply", Config{Groups: manyNames("g", maxEntries+1)}, "groups: Too many"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := ""
			if agg := tt.conf.Validate(field.NewPath("clusterAgents")).ToAggregate(); agg != nil {
				got = agg.Error()
			}
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q in it", got, tt.want)
			}
		})
	}
}

func manyNames(prefix string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return out
}

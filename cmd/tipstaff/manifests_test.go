package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/client-go/util/cert"
	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/manifests"
)

// manifestsOf runs `tipstaff manifests` with args.
func manifestsOf(t *testing.T, configFile string, args ...string) (string, error) {
	t.Helper()
	cmd := manifestsCommand(&options{configFile: configFile})
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs(args)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestManifestsFollowTheConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	// The files that it names are not here: who prints manifests needs none.
	good := file("good.yaml", `apiVersion: tipstaff.dev/v1alpha1
kind: Config
cluster: demo
maskKeyFile: /nowhere/mask.key
clusterAgents:
  serviceAccounts: [ops/bot]
access:
  clusterRoles: [view, edit]
`)
	bad := file("bad.yaml", "clusterAgents:\n  namespaces: [kube-system]\naccess:\n  clusterRoles: [cluster-admin]\n")
	typo := file("typo.yaml", "clusterAgent:\n  namespaces: [agents]\n")
	crt, _, err := cert.GenerateSelfSignedCertKey("tipstaff", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ca := file("ca.crt", string(crt))
	shipped := func(name string) string {
		b, err := os.ReadFile(filepath.Join("../../manifests", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	tests := []struct {
		name   string
		config string
		args   []string
		whole  string   // all of the output
		parts  []string // in the output, or in the error
		fails  bool
	}{
		{name: "without a config the webhooks are the shipped ones", args: []string{"webhooks"}, whole: shipped("base/webhooks.yaml")},
		{name: "without a config the audit policy is the shipped one", args: []string{"audit-policy"}, whole: shipped("apiserver/audit-policy.yaml")},
		{name: "without a config nothing may be bound", args: []string{"rbac"}, parts: []string{"name: tipstaff-bindings\nrules: []\n"}},
		{name: "the webhooks choose the config's agents", config: good, args: []string{"webhooks"}, parts: []string{"'tipstaff:agents' in request.userInfo.groups || request.userInfo.username in ['system:serviceaccount:ops:bot']", "service: {namespace: tipstaff-system"}},
		{name: "they can be outside the cluster", config: good, args: []string{"webhooks", "--url", "https://127.0.0.1:8443", "--ca-file", ca}, parts: []string{"url: https://127.0.0.1:8443/changes", "url: https://127.0.0.1:8443/guard", "caBundle: ", "system:serviceaccount:ops:bot"}},
		{name: "the audit policy records them", config: good, args: []string{"audit-policy"}, parts: []string{"users: ['system:serviceaccount:ops:bot']"}},
		{name: "tipstaff may bind what the config allows", config: good, args: []string{"rbac"}, parts: []string{"- bind", "- edit", "- view", "name: tipstaff-bindings"}},
		{name: "for an older API server the proxy impersonates by the old verb", config: good, args: []string{"rbac", "--impersonation", "legacy"}, parts: []string{"name: tipstaff-bindings", "---\n# For API servers before 1.36 only", "name: tipstaff-proxy", "- impersonate\n", "userextras/tipstaff.dev/run"}},
		{name: "else as shipped", args: []string{"rbac", "--impersonation", "constrained"}, parts: []string{"name: tipstaff-proxy", "- impersonate:user-info\n", "impersonate-on:user-info:get"}},
		{name: "or not at all", args: []string{"rbac", "--impersonation", "both"}, parts: []string{"--impersonation", "one of constrained, legacy"}, fails: true},
		{name: "an address without TLS is refused", args: []string{"webhooks", "--url", "http://127.0.0.1:8443"}, parts: []string{"not https://"}, fails: true},
		{name: "a CA file that isn't there is named", args: []string{"webhooks", "--ca-file", "/nowhere/ca.crt"}, parts: []string{"--ca-file"}, fails: true},
		{name: "a config that doesn't hold prints nothing, and every fault", config: bad, args: []string{"rbac"}, parts: []string{"clusterAgents.namespaces[0]", "access.clusterRoles[0]"}, fails: true},
		{name: "so does one with a typo", config: typo, args: []string{"webhooks"}, parts: []string{"clusterAgent"}, fails: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			out, err := manifestsOf(t, tt.config, tt.args...)
			if (err != nil) != tt.fails || tt.fails && out != "" {
				t.Fatalf("error %v, output %q", err, out)
			}
			if err != nil {
				out = err.Error()
			}
			if tt.whole != "" && out != tt.whole {
				t.Errorf("got\n%s", out)
			}
			for _, p := range tt.parts {
				if !strings.Contains(out, p) {
					t.Errorf("%q is not in\n%s", p, out)
				}
			}
		})
	}
}

// Events of approvals stand in the namespace "default": approvers read them
// there, and nowhere else.
func TestApproversReadTheEventsOfApprovals(t *testing.T) {
	t.Parallel()
	type object struct {
		Kind     string
		Metadata struct{ Name, Namespace string }
		Rules    []rbacv1.PolicyRule
		RoleRef  rbacv1.RoleRef
		Subjects []rbacv1.Subject
	}
	roles, bound := map[string]object{}, []object{}
	for _, doc := range strings.Split(string(manifests.RBAC), "\n---\n") {
		var o object
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatal(err)
		}
		roles[o.Kind+"/"+o.Metadata.Name] = o
		if slices.ContainsFunc(o.Subjects, func(s rbacv1.Subject) bool { return s.Kind == "Group" && s.Name == "tipstaff-approvers" }) {
			bound = append(bound, o)
		}
	}
	var got []string
	for _, b := range bound {
		for _, r := range roles[b.RoleRef.Kind+"/"+b.RoleRef.Name].Rules {
			if slices.Contains(r.Resources, "events") && slices.Contains(r.APIGroups, "") && slices.Contains(r.Verbs, "list") {
				got = append(got, b.Kind+" in "+b.Metadata.Namespace)
			}
		}
	}
	if !slices.Equal(got, []string{"RoleBinding in default"}) {
		t.Errorf("approvers list events by %q", got)
	}
}

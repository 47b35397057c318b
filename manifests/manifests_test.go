package manifests

import (
	"encoding/json"
	"io/fs"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	clientcmd "k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

func TestWebhookConfiguration(t *testing.T) {
	t.Parallel()
	cfg, err := WebhookConfiguration(nil, "https://127.0.0.1:8443", []byte("pem"))
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Webhooks) != 2 {
		t.Fatalf("%d webhooks", len(cfg.Webhooks))
	}
	for i, path := range []string{"/changes", "/guard"} {
		w := cfg.Webhooks[i]
		if w.ClientConfig.URL == nil || *w.ClientConfig.URL != "https://127.0.0.1:8443"+path || w.ClientConfig.Service != nil || string(w.ClientConfig.CABundle) != "pem" {
			t.Errorf("%s: client config %+v", w.Name, w.ClientConfig)
		}
		if *w.FailurePolicy != admissionregistrationv1.Fail {
			t.Errorf("%s does not fail closed", w.Name)
		}
	}
	if c := cfg.Webhooks[0].MatchConditions; len(c) != 1 || c[0].Expression != "'tipstaff:agents' in request.userInfo.groups" {
		t.Errorf("agents are selected by %v", c)
	}
	for _, bad := range []string{"http://x", "127.0.0.1:1"} {
		if _, err := WebhookConfiguration(nil, bad, nil); err == nil {
			t.Errorf("%q is taken as an address", bad)
		}
	}
}

func TestWebhookKubeconfig(t *testing.T) {
	t.Parallel()
	b, err := WebhookKubeconfig("https://127.0.0.1:1/audit/demo", "ca", "cert", "key")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.Load(b)
	if err != nil {
		t.Fatal(err)
	}
	user := cfg.Contexts[cfg.CurrentContext]
	if cfg.Clusters[user.Cluster].Server != "https://127.0.0.1:1/audit/demo" || cfg.AuthInfos[user.AuthInfo].ClientKey != "key" {
		t.Errorf("got %s", b)
	}
}

func TestAuditPolicyIsOne(t *testing.T) {
	t.Parallel()
	var p auditv1.Policy
	if err := yaml.UnmarshalStrict(AuditPolicy, &p); err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Rules {
		if slices.Contains(r.UserGroups, "tipstaff:agents") && r.Level == auditv1.LevelRequestResponse && len(r.Resources) == 0 && len(r.Verbs) == 0 {
			return
		}
	}
	t.Error("no rule records all that agents do")
}

// On the direct path nothing is masked. What agents may do there answers with
// nothing that is masked elsewhere; the end-to-end tests try every verb.
func TestI7_WhatAgentsMayDoDirectlyShowsNothing(t *testing.T) {
	t.Parallel()
	objs, err := Objects(RBAC)
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string][]rbacv1.PolicyRule{}
	var direct []string // the roles of the group that tokens yield
	for _, raw := range objs {
		var role rbacv1.ClusterRole
		if err := json.Unmarshal(raw, &role); err != nil {
			t.Fatal(err)
		}
		switch role.Kind {
		case "ClusterRole":
			roles[role.Name] = role.Rules
		case "ClusterRoleBinding", "RoleBinding":
			var b rbacv1.ClusterRoleBinding
			if err := json.Unmarshal(raw, &b); err != nil {
				t.Fatal(err)
			}
			if slices.ContainsFunc(b.Subjects, func(s rbacv1.Subject) bool { return s.Name == v1alpha1.GroupAgents }) {
				direct = append(direct, b.RoleRef.Name)
			}
		}
	}
	if !slices.Equal(direct, []string{"tipstaff-agent-direct", "tipstaff-agent-grants"}) {
		t.Errorf("agents have the roles %v", direct)
	}
	// What answers with containers, ConfigMaps or texts that others wrote.
	shows := []string{"configmaps", "events", "persistentvolumes", "pods", "pods/ephemeralcontainers", "pods/resize", "replicationcontrollers",
		"deployments", "daemonsets", "statefulsets", "replicasets", "controllerrevisions", "jobs", "cronjobs", "podtemplates"}
	for _, name := range direct {
		for _, r := range roles[name] {
			for _, res := range []string{"secrets", "serviceaccounts/token", "certificatesigningrequests", "pods/exec", "pods/attach", "pods/portforward", "nodes/proxy"} {
				if slices.Contains(r.Resources, res) || slices.Contains(r.APIGroups, "") && slices.Contains(r.Resources, "*") {
					t.Errorf("%+v covers %s", r, res)
				}
			}
			for _, verb := range []string{"get", "list", "watch", "deletecollection", "*", "impersonate", "escalate", "bind"} {
				if slices.Contains(r.Verbs, verb) {
					t.Errorf("%+v allows %s", r, verb)
				}
			}
			any := slices.Contains(r.Resources, "*") && slices.ContainsFunc(r.APIGroups, func(g string) bool { return g == "*" || g == "apps" || g == "batch" })
			if !slices.Equal(r.Verbs, []string{"create"}) && (any || slices.ContainsFunc(r.Resources, func(res string) bool { return slices.Contains(shows, res) })) {
				t.Errorf("%+v answers with what is there", r)
			}
		}
	}
}

func TestEveryFileIsYAML(t *testing.T) {
	t.Parallel()
	n := 0
	for _, fsys := range []fs.FS{CRDs, Base} {
		err := fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := fs.ReadFile(fsys, path)
			if err != nil {
				return err
			}
			objs, err := Objects(b)
			if err != nil || len(objs) == 0 {
				t.Errorf("%s: %d objects, %v", path, len(objs), err)
			}
			for _, o := range objs {
				if !strings.Contains(string(o), `"apiVersion"`) {
					t.Errorf("%s holds something without apiVersion", path)
				}
			}
			n++
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n < 5 {
		t.Errorf("%d files", n)
	}
}

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

func TestI7_AgentsHaveNoDirectRightOnSecrets(t *testing.T) {
	t.Parallel()
	objs, err := Objects(RBAC)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, raw := range objs {
		var role rbacv1.ClusterRole
		if err := json.Unmarshal(raw, &role); err != nil || role.Kind != "ClusterRole" || role.Name != "tipstaff-agent-direct" {
			continue
		}
		found = true
		for _, r := range role.Rules {
			core := slices.Contains(r.APIGroups, "") || slices.Contains(r.APIGroups, "*")
			if core && (slices.Contains(r.Resources, "*") || slices.Contains(r.Resources, "secrets")) {
				t.Errorf("%+v covers secrets", r)
			}
			for _, verb := range []string{"get", "list", "watch", "*", "impersonate", "escalate", "bind"} {
				if slices.Contains(r.Verbs, verb) {
					t.Errorf("%+v allows %s", r, verb)
				}
			}
		}
	}
	if !found {
		t.Error("tipstaff-agent-direct is gone")
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

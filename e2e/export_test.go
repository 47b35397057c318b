package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tipstaff-dev/tipstaff/e2e/harness"
)

// What a run changed, its export makes of a fresh API server: the same objects.
func TestAnExportedRunRepeatsItself(t *testing.T) {
	a := newAgent(t)
	ns := namespace(t)
	k := a.proxied
	must(t, k, "create", "configmap", "settings", "-n", ns, "--from-literal=color=green", "--from-literal=word=it's $quoted")
	must(t, k, "create", "configmap", "gone", "-n", ns)
	must(t, k, "apply", "-n", ns, "-f", writeFile(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied","labels":{"a":"b"}},"data":{"k":"1"}}`))
	must(t, k, "apply", "--server-side", "-n", ns, "-f", writeFile(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"served"},"data":{"k":"2"}}`))
	must(t, k, "apply", "-n", ns, "-f", writeFile(t, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"applied","labels":{"a":"c"}},"data":{"k":"3","l":"4"}}`))
	must(t, k, "label", "configmap", "settings", "-n", ns, "x=y")
	must(t, k, "patch", "configmap", "settings", "-n", ns, "--type=json", `-p=[{"op":"replace","path":"/data/color","value":"blue"}]`)
	must(t, k, "create", "deployment", "web", "-n", ns, "--image=registry.example/web:1")
	must(t, k, "scale", "deployment", "web", "-n", ns, "--replicas=3")
	must(t, k, "set", "image", "deployment/web", "-n", ns, "web=registry.example/web:2")
	must(t, k, "create", "service", "clusterip", "web", "-n", ns, "--tcp=80:8080")
	must(t, k, "delete", "configmap", "gone", "-n", ns)
	if _, err := shared.WaitForEvents(t.Context(), a.run, time.Minute); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "export")
	r := tipstaff(t, shared.Admin, "runs", "export", a.run, dir, "--clickhouse="+shared.ClickHouseURL)
	if !r.OK() || !strings.Contains(r.Stdout, "12 changes in") || !strings.Contains(r.Stdout, "0 left out") {
		t.Fatalf("exit %d: %s", r.Code, r.Output())
	}
	if r := tipstaff(t, shared.Admin, "runs", "export", a.run, dir, "--clickhouse="+shared.ClickHouseURL); r.Code != 1 || !strings.Contains(r.Stderr, "name a folder that isn't there yet") {
		t.Errorf("into a folder that is there: exit %d: %s", r.Code, r.Output())
	}

	fresh, err := shared.StartFresh(t.Context(), "fresh")
	if err != nil {
		t.Fatal(err)
	}
	must(t, fresh, "create", "namespace", ns)
	kubectl, err := exec.LookPath("../bin/kubectl")
	if err != nil {
		t.Fatal(err)
	}
	if kubectl, err = filepath.Abs(kubectl); err != nil {
		t.Fatal(err)
	}
	run := exec.CommandContext(t.Context(), "sh", filepath.Join(dir, "run.sh"))
	run.Env = append(os.Environ(), "KUBECONFIG="+string(fresh), "PATH="+filepath.Dir(kubectl)+":"+os.Getenv("PATH"))
	if out, err := run.CombinedOutput(); err != nil {
		script, _ := os.ReadFile(filepath.Join(dir, "run.sh"))
		t.Fatalf("%v: %s\n%s", err, out, script)
	}
	want, got := objectsOf(t, shared.Admin, ns), objectsOf(t, fresh, ns)
	if len(want) != 5 || !reflect.DeepEqual(got, want) {
		w, _ := json.MarshalIndent(want, "", " ")
		g, _ := json.MarshalIndent(got, "", " ")
		t.Errorf("the run made\n%s\nits export\n%s", w, g)
	}
}

// objectsOf are a namespace's objects without what each API server fills in itself.
func objectsOf(t *testing.T, k harness.Kubeconfig, ns string) map[string]any {
	t.Helper()
	var list struct {
		Items []map[string]any `json:"items"`
	}
	if err := json.Unmarshal([]byte(must(t, k, "get", "configmaps,deployments,services", "-n", ns, "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	all := map[string]any{}
	for _, o := range list.Items {
		meta := o["metadata"].(map[string]any)
		name := o["kind"].(string) + "/" + meta["name"].(string)
		if strings.HasPrefix(name, "ConfigMap/kube-") { // the controller manager's
			continue
		}
		notes, _ := meta["annotations"].(map[string]any)
		delete(notes, "deployment.kubernetes.io/revision") // the controller manager's
		if len(notes) == 0 {
			notes = nil
		}
		spec, _ := o["spec"].(map[string]any)
		delete(spec, "clusterIP")
		delete(spec, "clusterIPs")
		all[name] = map[string]any{"labels": meta["labels"], "annotations": notes, "data": o["data"], "spec": spec}
	}
	return all
}

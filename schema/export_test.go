package schema

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func exported(t *testing.T, events ...Event) (script string, files map[string]string, x *Exported) {
	t.Helper()
	for i := range events {
		events[i].Received = time.Date(2026, 11, 30, 10, 0, i, 0, time.UTC)
		if events[i].Code == 0 {
			events[i].Code = 200
		}
	}
	x = Export("run", events, func(s string) bool { return strings.Contains(s, "MARK") })
	files = map[string]string{}
	dir := t.TempDir()
	for _, f := range x.Files {
		files[f.Name] = string(f.Data)
		if f.Name != filepath.Base(f.Name) {
			t.Errorf("file %q", f.Name)
		}
		if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("sh", "-n", filepath.Join(dir, "run.sh")).CombinedOutput(); err != nil {
		t.Errorf("the shell can't read it: %s\n%s", out, files["run.sh"])
	}
	return files["run.sh"], files, x
}

// lines are a script's commands.
func commands(script string) (all []string) {
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, "kubectl ") {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return all
}

func TestExportRepeatsEachKindOfChange(t *testing.T) {
	t.Parallel()
	const object = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","uid":"u","resourceVersion":"7","managedFields":[]},"data":{"k":"v"},"status":{}}`
	service := `{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"clusterIP":"10.0.0.7","clusterIPs":["10.0.0.7"],"type":"ClusterIP"}}`
	cm := func(verb string) Event {
		return Event{Verb: verb, Resource: "configmaps", Namespace: "shop", Name: "a", RequestObject: object, ResponseObject: object}
	}
	dry, refused, read := cm("create"), cm("create"), cm("get")
	dry.DryRun, refused.Code = true, 403
	cut := cm("update")
	cut.Truncated = true
	masked := cm("update")
	masked.ResponseObject = strings.ReplaceAll(object, `"v"`, `"MARK"`)
	applied := cm("patch")
	applied.Code = 201
	script, files, x := exported(t,
		read, dry, refused, cm("create"), cm("patch"), masked, applied, cut,
		Event{Verb: "create", Resource: "pods", Namespace: "shop", Name: "web-x7", RequestObject: `{"apiVersion":"v1","kind":"Pod","metadata":{"generateName":"web-"},"spec":{}}`, Code: 201},
		Event{Verb: "patch", APIGroup: "apps", Resource: "deployments", Subresource: "scale", Namespace: "shop", Name: "web", ResponseObject: `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"web"},"spec":{"replicas":2},"status":{"replicas":1}}`},
		Event{Verb: "update", Resource: "services", Namespace: "shop", Name: "s", ResponseObject: service},
		Event{Verb: "delete", APIGroup: "apps", Resource: "deployments", Namespace: "shop", Name: "web", RequestObject: `{"propagationPolicy":"Orphan"}`},
		Event{Verb: "delete", Resource: "namespaces", Namespace: "shop", Name: "shop"},
		Event{Verb: "deletecollection", Resource: "pods", Namespace: "shop", URI: "/api/v1/namespaces/shop/pods?labelSelector=app%3Dweb"},
		Event{Verb: "create", Resource: "pods", Subresource: "eviction", Namespace: "shop", Name: "p", URI: "/api/v1/namespaces/shop/pods/p/eviction?x=y", RequestObject: `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"}}`, Code: 201},
		Event{Verb: "create", Resource: "pods", Subresource: "exec", Namespace: "shop", Name: "p", Code: 101},
		Event{Verb: "create", Resource: "serviceaccounts", Subresource: "token", Namespace: "shop", Name: "sa", RequestObject: `{}`, Code: 201},
	)
	want := []string{
		"kubectl create -n shop -f 001-create-configmaps-a.yaml",
		"kubectl replace -n shop -f 002-patch-configmaps-a.yaml",
		"kubectl replace -n shop -f 003-update-configmaps-a.yaml",
		"kubectl create -n shop -f 004-patch-configmaps-a.yaml",
		"kubectl create -n shop -f 005-create-pods-web-x7.yaml",
		"kubectl scale -n shop --replicas=2 deployments.apps/web",
		"kubectl replace -n shop -f 006-update-services-s.yaml",
		"kubectl delete -n shop --cascade=orphan --wait=false deployments.apps web",
		"kubectl delete --wait=false namespaces shop",
		"kubectl delete -n shop --wait=false pods -l 'app=web'",
		"kubectl create --raw /api/v1/namespaces/shop/pods/p/eviction -f 007-create-pods-p.yaml",
	}
	if got := commands(script); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if x.Steps != len(want) || x.Left != 3 || strings.Count(script, "# LEFT OUT: ") != 3 || strings.Count(script, "# MASKED: ") != 1 {
		t.Errorf("%d steps, %d left out:\n%s", x.Steps, x.Left, script)
	}
	if got := files["002-patch-configmaps-a.yaml"]; got != "apiVersion: v1\ndata:\n  k: v\nkind: ConfigMap\nmetadata:\n  name: a\n" {
		t.Errorf("the manifest has\n%s", got)
	}
	if got := files["005-create-pods-web-x7.yaml"]; !strings.Contains(got, "name: web-x7") || strings.Contains(got, "generateName") {
		t.Errorf("a generated name:\n%s", got)
	}
	if got := files["006-update-services-s.yaml"]; strings.Contains(got, "10.0.0.7") {
		t.Errorf("another cluster's address:\n%s", got)
	}
}

// What a request calls itself can't leave its word, its comment or its folder.
func TestExportOfHostileNamesRunsNothingElse(t *testing.T) {
	t.Parallel()
	proof := filepath.Join(t.TempDir(), "proof")
	for _, evil := range []string{
		"x\ntouch " + proof, "x'; touch " + proof + "; '", "$(touch " + proof + ")", "`touch " + proof + "`", "../../x", "-f\n/etc/passwd", "", "\u2028touch " + proof, "--raw",
	} {
		e := Event{Verb: "create", Resource: evil, Namespace: evil, Name: evil, APIGroup: evil, Rule: evil, Verdict: evil, DecisionReason: evil, Approvers: []string{evil},
			RequestObject: `{"kind":"X"}`, URI: "/api/v1/" + evil}
		d, c, r := e, e, e
		d.Verb, c.Verb, r.Subresource = "delete", "deletecollection", "binding"
		c.URI = "/x?labelSelector=" + evil
		if evil == "" {
			d.Resource, r.Resource = "x", "x"
		}
		_, _, x := exported(t, e, d, c, r)
		dir := t.TempDir()
		for _, f := range x.Files {
			if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		// A kubectl that does nothing: what runs beside it is seen.
		if err := os.WriteFile(filepath.Join(dir, "kubectl"), []byte("#!/bin/sh\nexit 0\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		run := exec.Command("sh", filepath.Join(dir, "run.sh"))
		run.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		if out, err := run.CombinedOutput(); err != nil {
			t.Errorf("%q: %v %s", evil, err, out)
		}
		if _, err := os.Stat(proof); err == nil {
			t.Fatalf("%q was run", evil)
		}
	}
}

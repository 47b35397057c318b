package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/remotecommand"

	"github.com/tipstaff-dev/tipstaff/schema"
)

// The second replica's proxy writes audit events of its own, and has its records
// kept by the first one's ingest.
func TestTheProxyTellsWhatTheAPIServerWouldToo(t *testing.T) {
	t.Parallel()
	second, err := replica()
	if err != nil {
		t.Fatal(err)
	}
	a := newAgent(t)
	a.mayChange(t, "secrets,configmaps,pods/exec")
	a.approving(t)
	ns := planted(t)
	by := func(args ...string) []string { return append([]string{"--server=" + second.ProxyURL}, args...) }
	must(t, a.proxied, by("get", "secret", "real", "-n", ns, "-o", "yaml")...)
	must(t, a.proxied, by("create", "configmap", "made", "-n", ns, "--from-literal=password="+realValue)...)
	must(t, a.proxied, by("patch", "secret", "real", "-n", ns, "--type=merge", "-p", `{"stringData":{"pin":"5678"}}`)...) // held, and sent again
	cfg := a.restConfig(t)                                                                                                // kubectl would look for the pod first
	cfg.Host = second.ProxyURL
	exec, err := remotecommand.NewWebSocketExecutor(cfg, http.MethodGet, cfg.Host+"/api/v1/namespaces/"+ns+"/pods/nobody/exec?stdout=true&command=login&command=--password%3D"+realValue)
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard}); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("exec in a pod that isn't there: %v", err)
	}
	refused(t, "not offered", a.proxied, by("get", "--raw", "/api/v1/namespaces/"+ns+"/pods/p/proxy/")...)

	type row struct {
		Verb, Resource, Subresource, Name, Source, URI string
		Code                                           int
		RequestObject                                  string `json:"request_object"`
	}
	var rows []row
	eventually(t, 30*time.Second, func() error {
		out, err := shared.Query(t.Context(), "SELECT verb, resource, subresource, name, source, uri, code, request_object FROM tipstaff.audit_events FINAL WHERE run = '"+a.run+"' AND stage = 'ResponseComplete' FORMAT JSONEachRow")
		if err != nil {
			return err
		}
		rows = nil
		for line := range strings.Lines(out) {
			var r row
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				return err
			}
			rows = append(rows, r)
		}
		find := func(source, verb, resource string, code int) error {
			for _, r := range rows {
				if r.Source == source && r.Verb == verb && r.Resource == resource && r.Code == code {
					return nil
				}
			}
			return fmt.Errorf("%q doesn't tell of %s %s with %d: %+v", source, verb, resource, code, rows)
		}
		var errs []error
		for _, source := range []string{"", schema.SourceProxy} {
			errs = append(errs, find(source, "get", "secrets", 200), find(source, "create", "configmaps", 201), find(source, "patch", "secrets", 200))
		}
		// What the proxy refuses never reaches the API server, the tries of what is
		// held never the client.
		return errors.Join(append(errs, find(schema.SourceProxy, "get", "pods", 403), find("", "patch", "secrets", 429))...)
	})
	for _, r := range rows {
		leaks(t, "a row", r.RequestObject+r.URI, realValue)
		if r.Source == schema.SourceProxy && r.Verb == "create" && r.Resource == "configmaps" && (r.Name != "made" || !strings.Contains(r.RequestObject, "tipstaff-masked-")) {
			t.Errorf("the proxy tells %+v", r)
		}
	}

	// A request of which both tell is there once.
	var timeline []schema.Event
	r := tipstaff(t, shared.Admin, "runs", "show", a.run, "-o", "json", "--config", shared.ConfigFile())
	if err := json.Unmarshal([]byte(r.Stdout), &timeline); err != nil {
		t.Fatalf("%v: %s", err, r.Output())
	}
	n := map[string]int{}
	for _, ev := range timeline {
		n[ev.Verb+" "+ev.Resource+fmt.Sprint(" ", ev.Code)]++
	}
	if n["create configmaps 201"] != 1 || n["patch secrets 200"] != 1 || n["get pods 403"] != 1 {
		t.Errorf("the timeline has %v", n)
	}

	// The session that was asked for is recorded as one that did not begin.
	eventually(t, 30*time.Second, func() error {
		r := tipstaff(t, shared.Admin, "runs", "sessions", a.run, "--config", shared.ConfigFile())
		leaks(t, "the list of sessions", r.Output(), realValue)
		if !strings.Contains(r.Stdout, "not begun: the API server answered 404") || !strings.Contains(r.Stdout, "login --password=tipstaff-masked-") {
			return errors.New(r.Output())
		}
		return nil
	})
}

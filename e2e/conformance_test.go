package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/tipstaff-dev/tipstaff/e2e/harness"
	"github.com/tipstaff-dev/tipstaff/internal/conformance"
)

var crd sync.Mutex

// conform runs the suite as somebody who reads; the admin plants.
func conform(t *testing.T, as harness.Kubeconfig, args ...string) (conformance.Report, harness.Result) {
	t.Helper()
	if slices.Contains(args, "--crd") { // there is one such kind at a time
		crd.Lock()
		defer crd.Unlock()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	r := shared.Tipstaff(ctx, as, append([]string{"conformance", "-o", "json", "--plant-kubeconfig", string(shared.Admin)}, args...)...)
	var report conformance.Report
	if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil {
		t.Fatalf("code %d: %v: %s", r.Code, err, r.Output())
	}
	t.Log(report.Summary())
	gone(t, report.Namespace)
	return report, r
}

// gone fails t unless all that a run planted is removed, or being so.
func gone(t *testing.T, namespace string) {
	t.Helper()
	if got := must(t, shared.Admin, "get", "namespace", namespace, "--ignore-not-found", "-o", "jsonpath={.status.phase}"); got != "" && got != "Terminating" {
		t.Errorf("namespace %s is %s", namespace, got)
	}
	if got := must(t, shared.Admin, "get", "secrets,csr,crd", "-n", "kube-system", "-l", "conformance.tipstaff.dev/namespace="+namespace, "-o", "name"); got != "" {
		t.Errorf("left outside of the namespace: %s", got)
	}
}

// tally counts what a report says of each place, or of each read.
func tally(report conformance.Report, of func(conformance.Cell) string) map[string]map[conformance.Result]int {
	all := map[string]map[conformance.Result]int{}
	for _, c := range report.Cells {
		if all[of(c)] == nil {
			all[of(c)] = map[conformance.Result]int{}
		}
		all[of(c)][c.Result]++
	}
	return all
}

func placeOf(c conformance.Cell) string { return c.Place }
func readOf(c conformance.Cell) string  { return c.Read }

// harmless are the reads that show nothing of any value even at a bare API
// server: it refuses them, or answers without the object. Through another
// server they might.
var harmless = []string{
	"head", "options", "log", "get-cbor", "list-cbor", "watch-yaml", "watch-websocket",
	"path-double-slash", "path-dot", "path-dot-dot", "path-dot-dot-escaped", "path-other-resource-dot-dot", "path-upper-case",
	"error-failed-test", "error-data-no-base64", "error-docker-config", "error-string-data-no-map", "error-string-data-of-wrong-type", "error-value-too-long",
	"impersonate-group-alone", "impersonate-underscore", "remote-user", "remote-user-nominated", "write-back", "write-elsewhere",
}

func TestConformanceFailsAtABareAPIServer(t *testing.T) {
	t.Parallel()
	report, r := conform(t, shared.Admin, "--crd")
	if r.Code != 1 {
		t.Errorf("code %d, want 1: %s", r.Code, r.Stderr)
	}
	places := tally(report, placeOf)
	if len(places) < 90 {
		t.Errorf("%d places: has the table shrunk?", len(places))
	}
	for place, n := range places {
		if place != "rejected-secret" && n[conformance.Leak] == 0 {
			t.Errorf("nothing leaks of %s: %v", place, n)
		}
	}
	reads := tally(report, readOf)
	if len(reads) < 120 {
		t.Errorf("%d reads: has the table shrunk?", len(reads))
	}
	for read, n := range reads {
		if leaks := n[conformance.Leak] > 0; leaks == slices.Contains(harmless, read) {
			t.Errorf("%s: %v", read, n)
		}
	}
	for _, read := range harmless {
		if reads[read] == nil {
			t.Errorf("there is no read %s", read)
		}
	}
	for _, c := range report.Cells {
		switch {
		case c.Result == conformance.Leak && (c.Where == "" || c.Form == "" || c.Reproduce == ""):
			t.Errorf("a leak without where, form or reproduction: %+v", c)
		case c.Result == conformance.Skipped && c.Reason == "":
			t.Errorf("skipped without a reason: %+v", c)
		}
	}
}

func TestI7_ConformanceThroughTheProxy(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	grant(t, a.group(), "--verb=create,update,patch,delete,deletecollection", "--resource=secrets,podtemplates,controllerrevisions.apps")
	must(t, shared.Admin, "create", "-f", writeFile(t, fmt.Sprintf(`{"apiVersion":"v1","kind":"List","items":[
		{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"conformance-widgets"},"rules":[
			{"apiGroups":["conformance.tipstaff.dev"],"resources":["*"],"verbs":["create","update","patch","delete","deletecollection"]}]},
		{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"conformance-widgets"},
			"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"conformance-widgets"},
			"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"Group","name":%q}]}]}`, a.group())))
	report, _ := conform(t, a.proxied, "--crd")
	if !slices.Equal(report.Unread, []string{"crd-field-selector", "token-request"}) { // the proxy refuses the one, RBAC the other
		t.Errorf("not read at all: %q", report.Unread)
	}
	for _, c := range report.Cells {
		if c.Result == conformance.Overwritten || c.Result == conformance.Leak {
			t.Errorf("%+v", c)
		}
	}
	// What it says of one place is what its exit code says.
	if _, r := conform(t, a.proxied, "--only", "secret-tls"); r.Code != 0 {
		t.Errorf("code %d for a place without leaks: %s", r.Code, r.Stderr)
	}
}

// On the direct path the rights that all agents have show nothing.
func TestI7_ConformanceOnTheDirectPath(t *testing.T) {
	t.Parallel()
	a := agentOf(t, "default")
	report, r := conform(t, a.direct, "--crd")
	for _, c := range report.Cells {
		if c.Result == conformance.Overwritten || c.Result == conformance.Leak {
			t.Errorf("%+v", c)
		}
	}
	if r.Code == 1 || report.Skipped < 5000 {
		t.Errorf("code %d: %s", r.Code, report.Summary())
	}
}

func TestConformanceThatCanReadNothingIsNoSuccess(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	report, r := conform(t, a.direct, "--only", "secret-tls")
	if r.Code != 2 || report.OK != 0 || report.Skipped == 0 || !slices.Contains(report.Unread, "secret-tls") {
		t.Errorf("code %d: %s", r.Code, report.Summary())
	}
	if r := tipstaff(t, a.proxied, "conformance", "--plant-kubeconfig", string(shared.Carol)); r.Code != 2 || !strings.Contains(r.Stderr, "make namespace") {
		t.Errorf("who may not plant: code %d: %s", r.Code, r.Output())
	}
}

func TestConformanceCleansUpWhenItIsInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	admin := restConfig(t, shared.Admin)
	report, err := conformance.Run(ctx, conformance.Options{Agent: admin, Plant: admin, NamespacePrefix: slug(t), Progress: func(text string) {
		if strings.HasPrefix(text, "reading") {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || report == nil {
		t.Fatalf("%v, %v", report, err)
	}
	gone(t, report.Namespace)
}

// spoiler is a proxy that masks what is read, and lets the masks be written back.
func spoiler(t *testing.T, upstream *rest.Config) *rest.Config {
	t.Helper()
	to, err := url.Parse(upstream.Host)
	if err != nil {
		t.Fatal(err)
	}
	rt, err := rest.TransportFor(upstream)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(&httputil.ReverseProxy{
		Transport: rt,
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(to)
			pr.Out.Header.Set("Accept-Encoding", "identity")
		},
		ModifyResponse: func(resp *http.Response) error {
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			var o map[string]any
			if json.Unmarshal(body, &o) == nil && path.Base(resp.Request.URL.Path) != "secrets" {
				if data, ok := o["data"].(map[string]any); ok {
					for k := range data {
						data[k] = base64.StdEncoding.EncodeToString([]byte("********"))
					}
					body, _ = json.Marshal(o)
				}
			}
			resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
			resp.Body = io.NopCloser(bytes.NewReader(body))
			return nil
		},
	})
	t.Cleanup(s.Close)
	return &rest.Config{Host: s.URL}
}

func TestConformanceFindsMasksThatAreWrittenBack(t *testing.T) {
	t.Parallel()
	admin := restConfig(t, shared.Admin)
	report, err := conformance.Run(t.Context(), conformance.Options{
		Agent: spoiler(t, admin), Plant: admin, NamespacePrefix: slug(t), Only: []string{"secret-data", "configmap-key-password"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range report.Cells {
		if c.Result == conformance.Overwritten {
			got = append(got, c.Place+"/"+c.Read)
		}
	}
	if want := []string{"configmap-key-password/write-back", "configmap-key-password/write-elsewhere", "secret-data/write-back"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	gone(t, report.Namespace)
}

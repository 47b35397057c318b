package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// With the rights that all agents have, every verb on every resource and
// subresource that the API server serves, round the proxy: no answer shows what
// the proxy masks, and of Secrets there is no answer at all.
func TestI7_NoWayRoundTheProxy(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	text, err := os.ReadFile(filepath.Join("testdata", "real.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	must(t, shared.Admin, "apply", "-n", ns, "-f", writeFile(t, strings.ReplaceAll(string(text), "VALUE", realValue)))
	a, hc := agentOf(t, "default"), client(t, "")

	verbs := []struct{ name, method, query, body, contentType string }{
		{"get", http.MethodGet, "", "", ""},
		{"watch", http.MethodGet, "watch=1&timeoutSeconds=1", "", ""},
		{"create", http.MethodPost, "dryRun=All", `{"metadata":{"name":"real"}}`, "application/json"},
		{"update", http.MethodPut, "dryRun=All", `{"metadata":{"name":"real"}}`, "application/json"},
		{"merge patch", http.MethodPatch, "dryRun=All", `{}`, "application/merge-patch+json"},
		{"strategic patch", http.MethodPatch, "dryRun=All", `{}`, "application/strategic-merge-patch+json"},
		{"JSON patch", http.MethodPatch, "dryRun=All", `[]`, "application/json-patch+json"},
		{"apply", http.MethodPatch, "dryRun=All&fieldManager=agent&force=true", `{"metadata":{"name":"real"}}`, "application/apply-patch+yaml"},
		{"delete", http.MethodDelete, "dryRun=All&propagationPolicy=Foreground", "", ""},
	}
	served := map[string]metav1.APIResource{} // by path
	for _, list := range discovered(t) {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		base := "/apis/" + gv.String()
		if gv.Group == "" {
			base = "/api/" + gv.Version
		}
		for _, r := range list.APIResources {
			resource, sub, _ := strings.Cut(r.Name, "/")
			paths := []string{base + "/" + resource + "/real"}
			if r.Namespaced {
				paths = []string{base + "/namespaces/" + ns + "/" + resource + "/real"}
				if sub == "" {
					paths = append(paths, base+"/"+resource)
				}
			}
			for _, p := range paths {
				if sub != "" {
					p += "/" + sub
				} else {
					served[strings.TrimSuffix(p, "/real")] = r
				}
				served[p] = r
			}
		}
	}
	if len(served) < 150 {
		t.Fatalf("the API server serves %d paths", len(served))
	}
	codes := map[int]int{}
	for p, r := range served {
		for _, v := range verbs {
			req, err := http.NewRequestWithContext(t.Context(), v.method, shared.APIServerURL+p+"?"+v.query, strings.NewReader(v.body))
			if err != nil {
				t.Fatal(err)
			}
			code, body, err := sendAs(hc, req, a.token, v.contentType)
			if err != nil {
				t.Fatalf("%s %s: %v", v.name, p, err)
			}
			codes[code]++
			leaks(t, v.name+" "+p, body, realValue)
			// 405: there is no such verb to begin with.
			closed := []int{http.StatusForbidden, http.StatusMethodNotAllowed}
			switch {
			case r.Name == "secrets" || strings.HasPrefix(r.Name, "certificatesigningrequests") || slices.Contains([]string{"pods/exec", "pods/attach", "pods/portforward", "pods/log", "pods/proxy", "services/proxy", "nodes/proxy", "serviceaccounts/token"}, r.Name):
				if !slices.Contains(closed, code) {
					t.Errorf("%s %s: %d %s", v.name, p, code, body)
				}
			case v.name == "get" || v.name == "watch":
				if !slices.Contains(closed, code) && !strings.Contains(p, "/api/v1/namespaces/"+ns+"/selfsubject") {
					t.Errorf("%s %s can be read: %d %s", v.name, p, code, body)
				}
			}
		}
	}
	if codes[http.StatusOK]+codes[http.StatusCreated] == 0 || codes[http.StatusForbidden] < 500 {
		t.Errorf("answers by code: %v", codes)
	}
}

// discovered are the API server's resources, subresources among them.
func discovered(t *testing.T) []metav1.APIResourceList {
	t.Helper()
	var groups metav1.APIGroupList
	read := func(p string, into any) {
		if err := json.Unmarshal([]byte(must(t, shared.Admin, "get", "--raw", p)), into); err != nil {
			t.Fatalf("%s: %v", p, err)
		}
	}
	read("/apis", &groups)
	paths := []string{"/api/v1"}
	for _, g := range groups.Groups {
		if g.Name == "metrics.k8s.io" { // another test's, for a while
			continue
		}
		for _, v := range g.Versions {
			paths = append(paths, "/apis/"+v.GroupVersion)
		}
	}
	all := make([]metav1.APIResourceList, len(paths))
	for i, p := range paths {
		read(p, &all[i])
	}
	return all
}

func sendAs(hc *http.Client, req *http.Request, token, contentType string) (int, string, error) {
	req.Header.Set("Authorization", "Bearer "+token)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return answerOf(hc, req)
}

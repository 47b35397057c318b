package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/e2e/harness"
	"github.com/tipstaff-dev/tipstaff/webhook"
)

// signingRequest is a certificate signing request, as the API takes it.
func signingRequest(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "eve"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// serve has the API server serve a kind that clusters have from elsewhere.
func serve(t *testing.T, group, plural, kind string) {
	t.Helper()
	must(t, shared.Admin, "create", "-f", writeFile(t, `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"`+plural+`.`+group+`"},
"spec":{"group":"`+group+`","scope":"Namespaced","names":{"plural":"`+plural+`","singular":"`+strings.ToLower(kind)+`","kind":"`+kind+`"},
"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`))
	eventually(t, 30*time.Second, func() error {
		if r := kubectl(t, shared.Admin, "get", "--raw", "/apis/"+group+"/v1/"+plural); !r.OK() {
			return errors.New(r.Output())
		}
		return nil
	})
}

// Under the shipped rules, what would hurt is never done unasked, whatever RBAC says.
func TestDestructiveWorkIsAllHeld(t *testing.T) {
	t.Parallel()
	a, hc := newAgent(t), client(t, "")
	a.mayAll(t)
	ns := heldNamespace(t, "destructive-")
	must(t, shared.Admin, "create", "-n", ns, "-f", writeFile(t, `{"apiVersion":"v1","kind":"List","items":[
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"pod"},"spec":{"nodeName":"no-such-node","containers":[{"name":"c","image":"example.invalid/c"}]}},
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"loose"},"spec":{"schedulerName":"nobody","containers":[{"name":"c","image":"example.invalid/c"}]}},
{"apiVersion":"v1","kind":"Service","metadata":{"name":"app"},"spec":{"ports":[{"port":80}]}},
{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"map"}},
{"apiVersion":"v1","kind":"Secret","metadata":{"name":"secret"},"stringData":{"key":"value"}},
{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"robot"}},
{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"data"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}},
{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"`+ns+`"},"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"storageClassName":"none","nfs":{"server":"example.invalid","path":"/"}}},
{"apiVersion":"v1","kind":"Node","metadata":{"name":"`+ns+`"}},
{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"db"},"spec":{"replicas":1,"serviceName":"db","selector":{"matchLabels":{"app":"db"}},"template":{"metadata":{"labels":{"app":"db"}},"spec":{"containers":[{"name":"c","image":"example.invalid/c"}]}}}},
{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"app"},"spec":{"replicas":2,"selector":{"matchLabels":{"app":"app"}},"template":{"metadata":{"labels":{"app":"app"}},"spec":{"containers":[{"name":"c","image":"example.invalid/c"}]}}}},
{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"large"},"spec":{"replicas":8,"selector":{"matchLabels":{"app":"large"}},"template":{"metadata":{"labels":{"app":"large"}},"spec":{"containers":[{"name":"c","image":"example.invalid/c"}]}}}},
{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"kept","finalizers":["example.com/backup"]}},
{"apiVersion":"v1","kind":"ResourceQuota","metadata":{"name":"limits"},"spec":{"hard":{"count/cronjobs.batch":"20"}}},
{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"closed"},"spec":{"podSelector":{},"policyTypes":["Ingress"]}},
{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"gadgets.`+ns+`.example.com"},"spec":{"group":"`+ns+`.example.com","scope":"Namespaced","names":{"plural":"gadgets","singular":"gadget","kind":"Gadget"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object"}}}]}}
]}`))
	db := must(t, shared.Admin, "get", "statefulset", "db", "-n", ns, "-o", "jsonpath={.metadata.uid}")
	must(t, shared.Admin, "create", "-n", ns, "-f", writeFile(t, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"db-0","ownerReferences":[{"apiVersion":"apps/v1","kind":"StatefulSet","name":"db","uid":"`+db+`"}]},"spec":{"containers":[{"name":"c","image":"example.invalid/c"}]}}`))
	serve(t, "argoproj.io", "applications", "Application")
	serve(t, "kyverno.io", "policyexceptions", "PolicyException")
	core := "/api/v1/namespaces/" + ns
	apps := "/apis/apps/v1/namespaces/" + ns
	rbac := "/apis/rbac.authorization.k8s.io/v1"
	podWith := func(rest string) string {
		return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"new"},"spec":{"containers":[{"name":"c","image":"example.invalid/c"` + rest + `}`
	}
	calls := []struct{ name, method, path, body string }{
		{"delete a namespace", http.MethodDelete, core, ""},
		{"delete a kind", http.MethodDelete, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gadgets." + ns + ".example.com", ""},
		{"change a kind", http.MethodPatch, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gadgets." + ns + ".example.com", `{"metadata":{"labels":{"a":"b"}}}`},
		{"delete a volume claim", http.MethodDelete, core + "/persistentvolumeclaims/data", ""},
		{"delete a volume", http.MethodDelete, "/api/v1/persistentvolumes/" + ns, ""},
		{"delete a stateful set", http.MethodDelete, apps + "/statefulsets/db", ""},
		{"delete every config map", http.MethodDelete, core + "/configmaps", ""},
		{"scale to zero", http.MethodPatch, apps + "/deployments/app/scale", `{"spec":{"replicas":0}}`},
		{"patch to zero", http.MethodPatch, apps + "/deployments/app", `{"spec":{"replicas":0}}`},
		{"scale far up", http.MethodPatch, apps + "/deployments/app/scale", `{"spec":{"replicas":50}}`},
		{"scale far down", http.MethodPatch, apps + "/deployments/large", `{"spec":{"replicas":1}}`},
		{"exec", http.MethodPost, core + "/pods/pod/exec?command=true&stdout=true", ""},
		{"attach", http.MethodPost, core + "/pods/pod/attach?stdout=true", ""},
		{"forward a port", http.MethodPost, core + "/pods/pod/portforward", ""},
		{"a pod's proxy", http.MethodGet, core + "/pods/pod/proxy/", ""},
		{"a service's proxy", http.MethodPost, core + "/services/app/proxy/", ""},
		{"a node's proxy", http.MethodPost, "/api/v1/nodes/" + ns + "/proxy/run", ""},
		{"a container for debugging", http.MethodPatch, core + "/pods/pod/ephemeralcontainers", `{"spec":{"ephemeralContainers":[{"name":"e","image":"example.invalid/e"}]}}`},
		{"evict", http.MethodPost, core + "/pods/pod/eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"pod"}}`},
		{"bind", http.MethodPost, core + "/pods/loose/binding", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"loose"},"target":{"kind":"Node","name":"` + ns + `"}}`},
		{"cordon", http.MethodPatch, "/api/v1/nodes/" + ns, `{"spec":{"unschedulable":true}}`},
		{"delete a node", http.MethodDelete, "/api/v1/nodes/" + ns, ""},
		// This API server takes no privileged container, rules or not.
		{"a pod that may do all", http.MethodPost, core + "/pods", podWith(`,"securityContext":{"capabilities":{"add":["SYS_ADMIN"]}}}]}`)},
		{"a pod on its host's network", http.MethodPost, core + "/pods", podWith(`}],"hostNetwork":true}`)},
		{"a pod with its host's files", http.MethodPost, core + "/pods", podWith(`}],"volumes":[{"name":"v","hostPath":{"path":"/"}}]}`)},
		{"a pod of another identity", http.MethodPost, core + "/pods", podWith(`}],"serviceAccountName":"robot"}`)},
		{"a pod of another identity, said the old way", http.MethodPost, core + "/pods", podWith(`}],"serviceAccount":"robot"}`)},
		{"a role", http.MethodPost, rbac + "/namespaces/" + ns + "/roles", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"new"},"rules":[]}`},
		{"a role binding", http.MethodPost, rbac + "/namespaces/" + ns + "/rolebindings", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{"name":"new"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"admin"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"eve"}]}`},
		{"a cluster role binding", http.MethodPost, rbac + "/clusterrolebindings", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"new-` + ns + `"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"eve"}]}`},
		{"a service account", http.MethodPost, core + "/serviceaccounts", `{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"new"}}`},
		{"a service account's token", http.MethodPost, core + "/serviceaccounts/robot/token", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}`},
		{"a new secret", http.MethodPost, core + "/secrets", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"new"}}`},
		{"another value of a secret", http.MethodPatch, core + "/secrets/secret", `{"stringData":{"key":"other"}}`},
		{"delete a secret", http.MethodDelete, core + "/secrets/secret", ""},
		{"a certificate", http.MethodPost, "/apis/certificates.k8s.io/v1/certificatesigningrequests", `{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","metadata":{"name":"` + ns + `"},"spec":{"request":"` + signingRequest(t) + `","signerName":"kubernetes.io/kube-apiserver-client","usages":["client auth"]}}`},
		{"an API service", http.MethodPost, "/apis/apiregistration.k8s.io/v1/apiservices", `{"apiVersion":"apiregistration.k8s.io/v1","kind":"APIService","metadata":{"name":"v1.` + ns + `.example.com"},"spec":{"group":"` + ns + `.example.com","version":"v1","groupPriorityMinimum":1,"versionPriority":1,"service":{"name":"x","namespace":"default"}}}`},
		{"delete a large deployment", http.MethodDelete, apps + "/deployments/large", ""},
		{"a volume", http.MethodPost, "/api/v1/persistentvolumes", `{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"new-` + ns + `"},"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"hostPath":{"path":"/"}}}`},
		{"delete a volume with its claim", http.MethodPatch, "/api/v1/persistentvolumes/" + ns, `{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}`},
		{"delete claims with their stateful set", http.MethodPatch, apps + "/statefulsets/db", `{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenDeleted":"Delete","whenScaled":"Delete"}}}`},
		{"take a finalizer off", http.MethodPatch, core + "/configmaps/kept", `{"metadata":{"finalizers":null}}`},
		{"an owner that isn't there", http.MethodPatch, core + "/configmaps/map", `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"gone","uid":"5b0c1a5e-0000-4000-8000-000000000000"}]}}`},
		{"finalize a namespace", http.MethodPut, core + "/finalize", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"` + ns + `"},"spec":{}}`},
		{"an autoscaler that starts with many", http.MethodPost, "/apis/autoscaling/v2/namespaces/" + ns + "/horizontalpodautoscalers", `{"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","metadata":{"name":"new"},"spec":{"minReplicas":50,"maxReplicas":60,"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"app"}}}`},
		{"delete a stateful set's pod by force", http.MethodDelete, core + "/pods/db-0?gracePeriodSeconds=0", ""},
		{"a pod on a port of its host", http.MethodPost, core + "/pods", podWith(`,"ports":[{"containerPort":80,"hostPort":80}]}]}`)},
		{"a pod on a node", http.MethodPost, core + "/pods", podWith(`}],"nodeName":"` + ns + `"}`)},
		{"a pod that tolerates everything", http.MethodPost, core + "/pods", podWith(`}],"tolerations":[{"operator":"Exists"}]}`)},
		{"a pod on every node", http.MethodPost, apps + "/daemonsets", `{"apiVersion":"apps/v1","kind":"DaemonSet","metadata":{"name":"new"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"example.invalid/c"}]}}}}`},
		{"a namespace for privileged pods", http.MethodPatch, core, `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"privileged"}}}`},
		{"delete a quota", http.MethodDelete, core + "/resourcequotas/limits", ""},
		{"raise a quota", http.MethodPatch, core + "/resourcequotas/limits", `{"spec":{"hard":{"count/cronjobs.batch":"2000"}}}`},
		{"open a closed namespace", http.MethodDelete, "/apis/networking.k8s.io/v1/namespaces/" + ns + "/networkpolicies/closed", ""},
		{"let everybody in", http.MethodPost, "/apis/networking.k8s.io/v1/namespaces/" + ns + "/networkpolicies", `{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"new"},"spec":{"podSelector":{},"ingress":[{}]}}`},
		{"a load balancer", http.MethodPatch, core + "/services/app", `{"spec":{"type":"LoadBalancer"}}`},
		{"an address that isn't the service's", http.MethodPatch, core + "/services/app", `{"spec":{"externalIPs":["192.0.2.1"]}}`},
		{"endpoints", http.MethodPost, core + "/endpoints", `{"apiVersion":"v1","kind":"Endpoints","metadata":{"name":"new"},"subsets":[{"addresses":[{"ip":"192.0.2.1"}],"ports":[{"port":80}]}]}`},
		{"a slice of endpoints", http.MethodPost, "/apis/discovery.k8s.io/v1/namespaces/" + ns + "/endpointslices", `{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"new","labels":{"kubernetes.io/service-name":"app"}},"addressType":"IPv4","endpoints":[{"addresses":["192.0.2.1"]}],"ports":[{"port":80}]}`},
		{"a snippet", http.MethodPost, "/apis/networking.k8s.io/v1/namespaces/" + ns + "/ingresses", `{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"name":"new","annotations":{"nginx.ingress.kubernetes.io/server-snippet":"x;"}},"spec":{"defaultBackend":{"service":{"name":"app","port":{"number":80}}}}}`},
		{"a pod's status", http.MethodPatch, core + "/pods/pod/status", `{"status":{"message":"x"}}`},
		{"a storage class", http.MethodPost, "/apis/storage.k8s.io/v1/storageclasses", `{"apiVersion":"storage.k8s.io/v1","kind":"StorageClass","metadata":{"name":"` + ns + `"},"provisioner":"example.invalid/p"}`},
		{"a priority class", http.MethodPost, "/apis/scheduling.k8s.io/v1/priorityclasses", `{"apiVersion":"scheduling.k8s.io/v1","kind":"PriorityClass","metadata":{"name":"` + ns + `"},"value":1}`},
		{"a Secret that only has the name of a release of helm", http.MethodPost, core + "/secrets", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"sh.helm.release.v1.app.v1"}}`},
		{"an application for a controller to deploy", http.MethodPost, "/apis/argoproj.io/v1/namespaces/" + ns + "/applications", `{"apiVersion":"argoproj.io/v1","kind":"Application","metadata":{"name":"new"},"spec":{}}`},
		{"an exception from a policy", http.MethodPost, "/apis/kyverno.io/v1/namespaces/" + ns + "/policyexceptions", `{"apiVersion":"kyverno.io/v1","kind":"PolicyException","metadata":{"name":"new"},"spec":{}}`},
		{"more rights", http.MethodPost, "/apis/tipstaff.dev/v1alpha1/grants", grantOf(ns, a.run, "", "view", ns, "5m")},
		{"something in kube-public", http.MethodPost, "/api/v1/namespaces/kube-public/configmaps", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"` + ns + `"}}`},
		{"something in kube-system", http.MethodPost, "/api/v1/namespaces/kube-system/configmaps", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"` + ns + `"}}`},
	}
	type answer struct {
		code int
		text string
		err  error
	}
	answers := make([]answer, len(calls))
	var group sync.WaitGroup
	room := make(chan struct{}, 16) // all at once, a slow machine would not answer each in time
	for i, call := range calls {
		group.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			an := &answers[i]
			req, err := http.NewRequestWithContext(t.Context(), call.method, shared.APIServerURL+call.path, strings.NewReader(call.body))
			if an.err = err; err != nil {
				return
			}
			req.Header.Set("Authorization", "Bearer "+a.token)
			req.Header.Set("Content-Type", "application/json")
			if call.method == http.MethodPatch {
				req.Header.Set("Content-Type", "application/merge-patch+json")
			}
			resp, err := hc.Do(req)
			if an.err = err; err != nil {
				return
			}
			b, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close() // read to its end, or failed
			an.code, an.text, an.err = resp.StatusCode, string(b), err
		})
	}
	group.Wait()
	by := map[string]bool{}
	for i, call := range calls {
		an := answers[i]
		var status metav1.Status
		if an.err != nil {
			t.Errorf("%s: %v", call.name, an.err)
		} else if err := json.Unmarshal([]byte(an.text), &status); err != nil {
			t.Errorf("%s: %d %s: %v", call.name, an.code, an.text, err)
		}
		held := an.code == http.StatusTooManyRequests && cause(status, webhook.CauseReason) == webhook.ReasonHeld
		denied := an.code == http.StatusForbidden && cause(status, webhook.CauseReason) == webhook.ReasonRule
		if !held && !denied {
			t.Errorf("%s: neither held nor denied by a rule: %d %s", call.name, an.code, an.text)
		}
		by[cause(status, webhook.CauseRule)] = true
	}
	rules, err := webhook.DefaultRules()
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range rules {
		if !by[rule.Name] {
			t.Errorf("nothing here is stopped by rule %q", rule.Name)
		}
	}
}

const app = `{"apiVersion":"v1","kind":"List","items":[
{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"settings"},"data":{"level":"info"}},
{"apiVersion":"v1","kind":"Service","metadata":{"name":"app"},"spec":{"selector":{"app":"app"},"ports":[{"port":80}]}},
{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"app"},"spec":{"replicas":2,"selector":{"matchLabels":{"app":"app"}},"template":{"metadata":{"labels":{"app":"app"}},"spec":{"containers":[{"name":"c","image":"example.invalid/app:1","resources":{"requests":{"cpu":"10m"}}}]}}}},
{"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","metadata":{"name":"app"},"spec":{"minReplicas":2,"maxReplicas":4,"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"app"}}},
{"apiVersion":"policy/v1","kind":"PodDisruptionBudget","metadata":{"name":"app"},"spec":{"minAvailable":1,"selector":{"matchLabels":{"app":"app"}}}},
{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"name":"app"},"spec":{"rules":[{"host":"app.example.com","http":{"paths":[{"path":"/","pathType":"Prefix","backend":{"service":{"name":"app","port":{"number":80}}}}]}}]}},
{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"app"},"spec":{"podSelector":{"matchLabels":{"app":"app"}}}},
{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"migrate"},"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"example.invalid/app:1"}]}}}},
{"apiVersion":"batch/v1","kind":"CronJob","metadata":{"name":"nightly"},"spec":{"schedule":"0 3 * * *","jobTemplate":{"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"example.invalid/app:1"}]}}}}}}
]}`

// chart writes a small application as people ship them for helm.
func chart(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"Chart.yaml":  "apiVersion: v2\nname: shop\nversion: 0.1.0\n",
		"values.yaml": "image: example.invalid/shop:1\nlevel: info\n",
		"templates/app.yaml": `apiVersion: v1
kind: ConfigMap
metadata: {name: "{{ .Release.Name }}"}
data: {level: "{{ .Values.level }}"}
---
apiVersion: v1
kind: Service
metadata: {name: "{{ .Release.Name }}"}
spec: {selector: {app: "{{ .Release.Name }}"}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: "{{ .Release.Name }}"}
spec:
  replicas: 2
  selector: {matchLabels: {app: "{{ .Release.Name }}"}}
  template:
    metadata: {labels: {app: "{{ .Release.Name }}"}}
    spec: {containers: [{name: c, image: "{{ .Values.image }}"}]}
`,
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// helm runs helm and fails t when it does.
func helm(t *testing.T, as harness.Kubeconfig, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if r := shared.Helm(ctx, as, args...); !r.OK() {
		t.Fatalf("helm %s: code %d: %s", strings.Join(args, " "), r.Code, r.Output())
	}
}

// What an agent does all day is done without asking anybody, under the shipped rules.
func TestOrdinaryWorkIsHardlyHeld(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.mayAll(t)
	ns := "work-of-" + a.run
	file, charted := writeFile(t, app), chart(t)
	must(t, a.direct, "create", "namespace", ns)
	for _, line := range []string{
		"get nodes", "get namespaces", "get pods -A", "auth can-i create deployments", "get events",
		"label namespace NS team=a", "annotate namespace NS note=x",
		"create quota limits --hard=pods=20",
		"apply -f FILE", "apply -f FILE", "apply --server-side --force-conflicts --field-manager=ci -f FILE", "diff -f FILE",
		"get all -o wide", "describe deployment app", "get deployment app -o yaml", "get events",
		"set image deployment/app c=example.invalid/app:2", "rollout history deployment/app",
		"rollout restart deployment/app", "rollout pause deployment/app", "set env deployment/app LEVEL=debug",
		"set resources deployment/app --requests=cpu=20m", "rollout resume deployment/app", "rollout undo deployment/app",
		"scale deployment app --replicas=3", "scale deployment app --replicas=2", "get pods -l app=app",
		"label deployment app tier=web", "annotate deployment app note=x", "label service app tier=web", "label configmap settings tier=web",
		"annotate ingress app note=x", "annotate job migrate note=x", "annotate cronjob nightly note=x", "label hpa app tier=web", "label pdb app tier=web",
		`patch configmap settings --type=merge -p {"data":{"level":"debug"}}`, `patch cronjob nightly -p {"spec":{"suspend":true}}`,
		`patch service app -p {"spec":{"ports":[{"port":80,"targetPort":8080}]}}`, `patch hpa app -p {"spec":{"maxReplicas":5}}`,
		`patch deployment app --type=json -p [{"op":"add","path":"/metadata/annotations/by","value":"agent"}]`,
		"create configmap more --from-literal=a=b", "create job again --from=cronjob/nightly", "create deployment second --image=example.invalid/second",
		"expose deployment second --port=80", "autoscale deployment second --min=1 --max=2", "create ingress second --rule=second.example.com/=second:80",
		"run once --image=example.invalid/once --restart=Never", "label pod once a=b", "annotate pod once a=b", "label pod once a-",
		"create cronjob weekly --schedule=0+3+*+*+0 --image=example.invalid/weekly",
		"set image deployment/second second=example.invalid/second:2", "set env deployment/second A=b", "rollout restart deployment/second",
		"delete pod once --wait=false", "delete ingress second", "delete hpa second", "delete service second", "delete deployment second --wait=false",
		"delete job again --wait=false", "delete cronjob weekly", "delete configmap more", "delete -f FILE --wait=false",
		"helm install shop CHART", "helm list", "helm status shop", "helm get manifest shop",
		"helm upgrade shop CHART --set image=example.invalid/shop:2", "helm upgrade --install shop CHART --set level=debug", "helm history shop",
		"helm rollback shop 1", "get deployment shop -o wide", "rollout restart deployment/shop", "helm uninstall shop",
	} {
		args := strings.Fields(strings.NewReplacer("FILE", file, "CHART", charted, "NS", ns).Replace(line))
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "+", " ")
		}
		if args[0] == "helm" {
			helm(t, a.direct, append(args[1:], "-n", ns)...)
			continue
		}
		as := a.direct
		if args[0] == "get" || args[0] == "describe" {
			as = a.proxied
		}
		if args[0] == "diff" { // ends with 1 where something differs
			kubectl(t, as, append(args, "-n", ns)...)
			continue
		}
		must(t, as, append(args, "-n", ns)...)
	}
	if _, err := shared.WaitForEvents(t.Context(), a.run, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	count := func(where string) int {
		t.Helper()
		out, err := shared.Query(t.Context(), "SELECT uniqExact(audit_id) FROM tipstaff.audit_events WHERE run = '"+a.run+"' AND "+where)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(out))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	calls := count("1")
	changes := count("verb IN ('create', 'update', 'patch', 'delete', 'deletecollection')")
	stopped := count("code IN (403, 429)")
	t.Logf("%d calls, %d of them changes, %d held or refused", calls, changes, stopped)
	if changes < 50 {
		t.Errorf("only %d changes: no day's work", changes)
	}
	if asked := len(approvalsOf(t, a.run)); stopped*50 > calls || asked*50 > changes {
		t.Errorf("%d of %d calls are stopped, %d of %d changes ask people; want at most 2%%", stopped, calls, asked, changes)
	}
}

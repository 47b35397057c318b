package webhook

import (
	"bytes"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/admissionreview"
	"github.com/tipstaff-dev/tipstaff/mask"
)

func fingerprintOf(t testing.TB, req *admissionv1.AdmissionRequest, agent v1alpha1.Agent) v1alpha1.Fingerprint {
	t.Helper()
	r, err := open(req, agent)
	if err != nil {
		t.Fatal(err)
	}
	newObj, oldObj := normalised(req, r.object(), r.oldObject())
	fp, err := fingerprint(req, agent, newObj, oldObj, r.options())
	if err != nil {
		t.Fatal(err)
	}
	if len(fp) != 64 {
		t.Fatalf("fingerprint %q", fp)
	}
	return fp
}

const (
	updateLine = "UPDATE apps/deployments shop web"
	newDeploy  = "{kind: Deployment, metadata: {name: web, uid: u1, resourceVersion: '7', generation: 2, managedFields: [{manager: a}]}, spec: {replicas: 3}, status: {ready: 1}}"
	oldDeploy  = "{kind: Deployment, metadata: {name: web, uid: u1, resourceVersion: '7'}, spec: {replicas: 1}, status: {ready: 1}}"
)

func TestI3_AnyChangeIsAnotherRequest(t *testing.T) {
	t.Parallel()
	base := fingerprintOf(t, request(t, updateLine, newDeploy, oldDeploy), testAgent)
	type in struct {
		line, object, old, options string
		agent                      v1alpha1.Agent
		req                        func(*admissionv1.AdmissionRequest)
	}
	replace := func(s, from, to string) string {
		if !strings.Contains(s, from) {
			t.Fatalf("%q is not in %q", from, s)
		}
		return strings.ReplaceAll(s, from, to)
	}
	differ := map[string]func(*in){
		"another user":                         func(i *in) { i.agent.User = "agent:ci:other" },
		"another issuer":                       func(i *in) { i.agent.Issuer = "other" },
		"another run":                          func(i *in) { i.agent.Run = "run-2" },
		"another profile":                      func(i *in) { i.agent.Profile = "wide" },
		"another owner":                        func(i *in) { i.agent.Owner = "mallory" },
		"another model":                        func(i *in) { i.agent.Model = "other" },
		"another task":                         func(i *in) { i.agent.Task = "other" },
		"another operation":                    func(i *in) { i.line = replace(i.line, "UPDATE", "CREATE") },
		"another group":                        func(i *in) { i.line = replace(i.line, "apps/", "batch/") },
		"another resource":                     func(i *in) { i.line = replace(i.line, "deployments", "daemonsets") },
		"another subresource":                  func(i *in) { i.line = replace(i.line, "deployments", "deployments/scale") },
		"another version":                      func(i *in) { i.req = func(r *admissionv1.AdmissionRequest) { r.Resource.Version = "v2" } },
		"another kind":                         func(i *in) { i.req = func(r *admissionv1.AdmissionRequest) { r.Kind.Kind = "X" } },
		"another namespace":                    func(i *in) { i.line = replace(i.line, "shop", "bank") },
		"another name":                         func(i *in) { i.line = replace(i.line, " web", " api") },
		"other options":                        func(i *in) { i.options = `{"propagationPolicy":"Orphan"}` },
		"another new value":                    func(i *in) { i.object = replace(i.object, "replicas: 3", "replicas: 4") },
		"a field more":                         func(i *in) { i.object = replace(i.object, "replicas: 3", "replicas: 3, paused: true") },
		"a number made a string":               func(i *in) { i.object = replace(i.object, "replicas: 3", "replicas: '3'") },
		"a label more":                         func(i *in) { i.object = replace(i.object, "uid: u1", "uid: u1, labels: {a: b}") },
		"another old value":                    func(i *in) { i.old = replace(i.old, "replicas: 1", "replicas: 2") },
		"an object made anew":                  func(i *in) { i.old = replace(i.old, "u1", "u2") },
		"a status that the request writes":     func(i *in) { i.object = replace(i.object, "ready: 1", "ready: 2") },
		"the objects swapped":                  func(i *in) { i.object, i.old = i.old, i.object },
		"the status, where it is what changes": func(i *in) { i.line = replace(i.line, "deployments", "deployments/status") },
	}
	seen := map[v1alpha1.Fingerprint]string{base: "the request itself"}
	build := func(f func(*in)) v1alpha1.Fingerprint {
		i := in{line: updateLine, object: newDeploy, old: oldDeploy, agent: testAgent}
		f(&i)
		req := request(t, i.line, i.object, i.old)
		req.Options.Raw = []byte(i.options)
		if i.req != nil {
			i.req(req)
		}
		return fingerprintOf(t, req, i.agent)
	}
	for name, f := range differ {
		fp := build(f)
		if other, ok := seen[fp]; ok {
			t.Errorf("%s has the fingerprint of %s", name, other)
		}
		seen[fp] = name
	}
	same := map[string]func(*in){
		"the same again":          func(*in) {},
		"another resourceVersion": func(i *in) { i.object, i.old = replace(i.object, "'7'", "'8'"), replace(i.old, "'7'", "'8'") },
		"another generation":      func(i *in) { i.object = replace(i.object, "generation: 2", "generation: 3") },
		"other managedFields":     func(i *in) { i.object = replace(i.object, "manager: a", "manager: b") },
		"another status": func(i *in) {
			i.object, i.old = replace(i.object, "ready: 1", "ready: 2"), replace(i.old, "ready: 1", "ready: 2")
		},
		"another token of the run": func(i *in) { i.agent.CredentialID = "JTI=2" },
		"another review of it":     func(i *in) { i.req = func(r *admissionv1.AdmissionRequest) { r.UID = "uid-2" } },
	}
	for name, f := range same {
		if build(f) != base {
			t.Errorf("%s has another fingerprint", name)
		}
	}
}

func TestI3_StatusCountsWhereItIsWhatChanges(t *testing.T) {
	t.Parallel()
	line := strings.Replace(updateLine, "deployments", "deployments/status", 1)
	a := fingerprintOf(t, request(t, line, newDeploy, oldDeploy), testAgent)
	b := fingerprintOf(t, request(t, line, strings.Replace(newDeploy, "ready: 1", "ready: 2", 1), oldDeploy), testAgent)
	if a == b {
		t.Error("two statuses, one fingerprint")
	}
}

func TestI3_ABindingKeepsThePodItMeans(t *testing.T) {
	t.Parallel()
	const line = "CREATE core/bindings shop web-0"
	a := fingerprintOf(t, request(t, line, "{metadata: {name: web-0, uid: u1}, target: {name: n1}}", ""), testAgent)
	b := fingerprintOf(t, request(t, line, "{metadata: {name: web-0}, target: {name: n1}}", ""), testAgent)
	if a == b {
		t.Error("a binding without its precondition has the same fingerprint")
	}
}

func TestRetriesOfACreateMatch(t *testing.T) {
	t.Parallel()
	pod := func(uid, name, volume, mount string) string {
		return "{metadata: {generateName: p-, name: p-" + name + ", uid: " + uid + ", creationTimestamp: '2026-01-01T00:00:0" + name + "Z', labels: {controller-uid: " + uid + "}}, " +
			"spec: {volumes: [{name: kube-api-access-" + volume + ", projected: {}}, {name: data}], containers: [{volumeMounts: [{name: kube-api-access-" + mount + ", mountPath: /t}, {name: data, mountPath: /d}]}]}}"
	}
	const line = "CREATE core/pods shop -"
	first := fingerprintOf(t, request(t, line, pod("u1", "1", "bcdfg", "bcdfg"), ""), testAgent)
	if fingerprintOf(t, request(t, line, pod("u2", "2", "vwxz2", "vwxz2"), ""), testAgent) != first {
		t.Error("a retry with a fresh uid, name and service-account volume has another fingerprint")
	}
	if fingerprintOf(t, request(t, line, pod("u2", "2", "vwxz2", "hjklm"), ""), testAgent) == first {
		t.Error("another mount has the same fingerprint")
	}
	if fingerprintOf(t, request(t, line, strings.Replace(pod("u2", "2", "vwxz2", "vwxz2"), "/t", "/x", 1), ""), testAgent) == first {
		t.Error("another mount path has the same fingerprint")
	}
	if fingerprintOf(t, request(t, "CREATE core/pods shop p-1", pod("u1", "1", "bcdfg", "bcdfg"), ""), testAgent) == first {
		t.Error("a name that was asked for is left out")
	}
}

// A volume whose name a client chose is content, and so is what names it.
func TestI3_ChosenVolumeNames(t *testing.T) {
	t.Parallel()
	two := func(first, second string) string {
		return "{spec: {volumes: [{name: kube-api-access-" + first + ", persistentVolumeClaim: {claimName: scratch}}, {name: kube-api-access-" + second + ", persistentVolumeClaim: {claimName: customers}}], " +
			"containers: [{volumeDevices: [{name: kube-api-access-bcdfg, devicePath: /dev/d}]}]}}"
	}
	one := func(name, more string) string {
		return "{metadata: {name: p" + more + "}, spec: {volumes: [{name: kube-api-access-" + name + ", projected: {}}], containers: [{volumeMounts: [{name: kube-api-access-" + name + ", mountPath: /t}]}]}}"
	}
	for name, pair := range map[string][2]string{
		"two volumes change places":         {two("bcdfg", "vwxz2"), two("vwxz2", "bcdfg")},
		"a name that isn't drawn":           {one("mine", ""), one("yours", "")},
		"a name that an annotation has":     {one("bcdfg", ", annotations: {backup: 'volume kube-api-access-bcdfg'}"), one("vwxz2", ", annotations: {backup: 'volume kube-api-access-bcdfg'}")},
		"a name that a member's name holds": {one("bcdfg", ", annotations: {backup/kube-api-access-bcdfg: x}"), one("vwxz2", ", annotations: {backup/kube-api-access-bcdfg: x}")},
	} {
		const line = "CREATE core/pods shop p"
		if fingerprintOf(t, request(t, line, pair[0], ""), testAgent) == fingerprintOf(t, request(t, line, pair[1], ""), testAgent) {
			t.Errorf("%s: one fingerprint", name)
		}
	}
}

// What the API server allocates is new at each try; what the client chose is signed.
func TestI3_AllocatedPortsAndAddresses(t *testing.T) {
	t.Parallel()
	const sent = "f:spec: {f:type: {}, f:ports: {'k:{\"port\":80}': {f:port: {}}}}"
	const create = "CREATE core/services shop web"
	service := func(fields, ip, port string) string {
		return "{metadata: {name: web, managedFields: [{manager: kubectl, fieldsV1: {" + fields + "}}]}, " +
			"spec: {type: NodePort, clusterIP: " + ip + ", clusterIPs: [" + ip + "], ports: [{port: 80, nodePort: " + port + "}]}}"
	}
	fp := func(line, object, old string) v1alpha1.Fingerprint {
		return fingerprintOf(t, request(t, line, object, old), testAgent)
	}
	if fp(create, service(sent, "10.0.0.1", "30001"), "") != fp(create, service(sent, "10.0.0.2", "30002"), "") {
		t.Error("what was allocated makes another request")
	}
	for name, fields := range map[string]string{
		"a chosen port":          "f:spec: {f:ports: {'k:{\"port\":80}': {f:nodePort: {}}}}",
		"no managed fields":      "f:metadata: {}",
		"a chosen port, by two":  sent + "}}, {manager: other, fieldsV1: {f:spec: {f:ports: {'k:{\"port\":80}': {f:nodePort: {}}}}",
		"unreadable fields next": sent + "}}, {manager: other, fieldsV1: null}, {manager: more, fieldsV1: {f:spec: {f:type: {}}",
	} {
		if fp(create, service(fields, "10.0.0.1", "30001"), "") == fp(create, service(fields, "10.0.0.1", "30002"), "") {
			t.Errorf("%s is not signed", name)
		}
	}
	if fp(create, service("f:spec: {f:clusterIP: {}}", "10.0.0.1", "30001"), "") == fp(create, service("f:spec: {f:clusterIP: {}}", "10.0.0.2", "30001"), "") {
		t.Error("a chosen address is not signed")
	}
	// An update keeps what stood, and gets a port for what is new.
	const update = "UPDATE core/services shop web"
	const old = "{metadata: {name: web}, spec: {type: ClusterIP, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{port: 80}]}}"
	if fp(update, service(sent, "10.0.0.1", "30001"), old) != fp(update, service(sent, "10.0.0.1", "30002"), old) {
		t.Error("a port allocated by an update makes another request")
	}
	had := service(sent, "10.0.0.1", "30001")
	if fp(update, service(sent, "10.0.0.1", "30002"), had) == fp(update, service(sent, "10.0.0.1", "30001"), had) {
		t.Error("a port that stood and one that is new are the same")
	}
}

func FuzzReview(f *testing.F) {
	for _, req := range []*admissionv1.AdmissionRequest{
		request(f, updateLine, newDeploy, oldDeploy),
		request(f, deleteNamespace, "", "{kind: Namespace}"),
		request(f, "CONNECT core/pods/exec shop p", "{command: [sh]}", ""),
		request(f, "CREATE core/pods shop", "{metadata: {generateName: x}, spec: {volumes: [{name: kube-api-access-a}]}}", ""),
		request(f, "UPDATE core/secrets shop s", "{kind: Secret, data: {a: Yg==}}", "{kind: Secret}"),
	} {
		f.Add(mustJSON(f, admissionv1.AdmissionReview{Request: req}))
		f.Add(append([]byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":`), append(mustJSON(f, req), '}')...))
	}
	f.Add([]byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"CREATE","object":{"spec":{"volumes":7,"containers":[null]},"metadata":[]}}}`))
	w := newWebhook(f, &fakeApprovals{t: f, ensure: inPhase(v1alpha1.PhaseDenied)}, notRevoked, Config{Default: Hold})
	f.Fuzz(func(t *testing.T, b []byte) {
		rev, err := admissionreview.Read(bytes.NewReader(b), int64(len(b)))
		if (rev == nil) == (err == nil) {
			t.Fatalf("review %v with error %v", rev, err)
		}
		if err != nil {
			return
		}
		req := rev.Request
		resp, _ := w.answer(t.Context(), rev)
		if resp == nil || resp.UID != req.UID || !resp.Allowed && (resp.Result == nil || resp.Result.Code < 400) {
			t.Fatalf("answer %+v", resp)
		}
		r, err := openReview(rev, testAgent)
		if err != nil {
			return
		}
		_, inObject := mask.ContainsMark(map[string]any{"": r.object()})
		if _, inText := r.mark(); inObject != inText {
			t.Fatalf("a mask in the object: %t, in its text: %t", inObject, inText)
		}
		newObj, oldObj := normalised(req, r.object(), r.oldObject())
		one, err := fingerprint(req, testAgent, newObj, oldObj, r.options())
		if err != nil {
			t.Fatal(err)
		}
		again, _ := normalised(req, newObj, oldObj)
		two, err := fingerprint(req, testAgent, again, oldObj, r.options())
		if err != nil || one != two {
			t.Fatalf("normalising twice gives another fingerprint: %s %s %v", one, two, err)
		}
	})
}

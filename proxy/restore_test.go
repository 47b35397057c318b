package proxy

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/tipstaff-dev/tipstaff/mask"
)

// stored serves one object, and keeps what is sent to change it.
type stored struct {
	object string

	mu       sync.Mutex
	sent     string
	sentType string
}

func (s *stored) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodGet {
		_, _ = io.WriteString(w, s.object)
		return
	}
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.sent, s.sentType = string(body), r.Header.Get("Content-Type")
	s.mu.Unlock()
	_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Success"}`)
}

const (
	real64 = "czNjcjN0LVZhbHVlLTE3" // s3cr3t-Value-17
	weak64 = "aHVudGVyMg=="         // hunter2
)

// secret is a Secret as kubectl apply leaves it.
func secret() string {
	applied, err := json.Marshal(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"a"},"data":{"password":"` + real64 + `"},"stringData":{"pin":"hunter2"}}` + "\n")
	if err != nil {
		panic(err) // a string always encodes
	}
	return `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"s","namespace":"a","uid":"u","resourceVersion":"7","annotations":{"kubectl.kubernetes.io/last-applied-configuration":` + string(applied) + `,"note":"plain"}},"data":{"password":"` + real64 + `","pin":"` + weak64 + `"},"type":"Opaque"}`
}

const deployment = `{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"d","namespace":"a","resourceVersion":"9"},"spec":{"template":{"spec":{"containers":[{"name":"one","args":["--token","s3cr3t-Value-17","--url=postgres://u:swordfish@db/x?token=abcdef"]},{"name":"two","env":[{"name":"A","value":"b"},{"name":"DB_PASSWORD","value":"swordfish"}]}]}}}}`

// weakly is deployment with a weak value behind a flag.
var weakly = strings.Replace(deployment, "s3cr3t-Value-17", "hunter2", 1)

func TestI8_MarksComeBackAsWhatTheyStandFor(t *testing.T) {
	t.Parallel()
	const envs = "/spec/template/spec/containers/1/env"
	const path, deploy = "/api/v1/namespaces/a/secrets/s", "/apis/apps/v1/namespaces/a/deployments/d"
	for _, tc := range []struct {
		name, object, method, path, contentType string
		// body makes the request's body of what was read.
		body func(read map[string]any) any
		// has and hasNot are looked for in what the API server gets.
		has, hasNot []string
		code        int // 200 unless set
	}{
		{"replaced as it was read", secret(), "PUT", path, typeJSON, func(o map[string]any) any { return o },
			[]string{real64, weak64, `\"` + real64 + `\"`, "hunter2", `"resourceVersion":"7"`}, nil, 0},
		{"replaced without a version", secret(), "PUT", path, typeJSON, func(o map[string]any) any { delete(o["metadata"].(map[string]any), "resourceVersion"); return o },
			[]string{real64, `"resourceVersion":"7"`}, nil, 0},
		{"one value changed", secret(), "PUT", path, typeJSON, func(o map[string]any) any {
			o["data"].(map[string]any)["pin"] = "bmV3"
			return o
		}, []string{real64, "bmV3"}, []string{`"pin":"` + weak64}, 0},
		{"a merge patch", secret(), "PATCH", path, typeMerge, func(o map[string]any) any {
			return map[string]any{"data": map[string]any{"password": o["data"].(map[string]any)["password"], "new": "bmV3"}}
		}, []string{real64, "bmV3", `"resourceVersion":"7"`}, nil, 0},
		{"a JSON patch", secret(), "PATCH", path, typeJSONPatch, func(o map[string]any) any {
			return []any{map[string]any{"op": "test", "path": "/data/password", "value": o["data"].(map[string]any)["password"]}, map[string]any{"op": "add", "path": "/data", "value": o["data"]}}
		}, []string{`{"metadata":{"resourceVersion":"7"}}`}, nil, 0},
		{"a JSON patch that adds beside them", secret(), "PATCH", path, typeJSONPatch, func(o map[string]any) any {
			o["data"].(map[string]any)["new"] = "bmV3"
			return []any{map[string]any{"op": "replace", "path": "/data", "value": o["data"]}}
		}, []string{`{"data":{"new":"bmV3"},"metadata":{"resourceVersion":"7"}}`}, nil, 0},
		{"an item put before them", deployment, "PATCH", deploy, typeJSONPatch, func(map[string]any) any {
			return []any{map[string]any{"op": "add", "path": envs + "/0", "value": map[string]any{"name": "X", "value": "x"}}}
		}, []string{`"path":"/metadata/resourceVersion"`, `"op":"add"`}, nil, 0},
		{"applied, in YAML", secret(), "PATCH", path + "?fieldManager=m", typeApply, func(o map[string]any) any {
			delete(o["metadata"].(map[string]any), "managedFields")
			return o
		}, []string{real64, weak64}, nil, 0},
		{"data as text", secret(), "PATCH", path, typeStrategic, func(o map[string]any) any {
			m, err := base64.StdEncoding.DecodeString(o["data"].(map[string]any)["password"].(string))
			if err != nil {
				panic(err)
			}
			return map[string]any{"stringData": map[string]any{"password": string(m)}}
		}, []string{"s3cr3t-Value-17"}, nil, 0},
		{"an environment, by name", deployment, "PATCH", deploy, typeStrategic, func(o map[string]any) any {
			two := o["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)["containers"].([]any)[1]
			return map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"containers": []any{two}}}}}
		}, []string{`{"name":"DB_PASSWORD","value":"swordfish"}`}, nil, 0},
		{"parts of a text, and a change beside them", deployment, "PUT", deploy, typeJSON, func(o map[string]any) any {
			args := o["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)["args"].([]any)
			args[2] = strings.Replace(args[2].(string), "@db/", "@db2/", 1)
			return o
		}, []string{"s3cr3t-Value-17", "--url=postgres://u:swordfish@db2/x?token=abcdef"}, nil, 0},

		{"byte by byte otherwise", `{"kind":"ControllerRevision","metadata":{"name":"c","resourceVersion":"3"},"data":{"z":1.50,"a":"\\u0026<","spec":{"containers":[{"name":"one","env":[{"name":"TOKEN","value":"swordfish"}]}]}}}`, "PUT", "/apis/apps/v1/namespaces/a/controllerrevisions/c", typeJSON, nil,
			[]string{`"data":{"z":1.50,"a":"\\u0026<","spec":{"containers":[{"name":"one","env":[{"name":"TOKEN","value":"swordfish"}]}]}}`}, nil, 0},
		{"managed fields that name a value", `{"kind":"Widget","metadata":{"name":"c","resourceVersion":"3","managedFields":[{"fieldsV1":{"f:metadata":{"f:finalizers":{"v:\"example.com/ghp_a8Kd93jfLq0Zx7Vb2Nm5Qw1Er4Ty6Ui8Op9A\"":{}}}}}]}}`, "PUT", "/apis/example.com/v1/namespaces/a/widgets/c", typeJSON, func(o map[string]any) any { return o },
			[]string{"ghp_a8Kd93jfLq0Zx7Vb2Nm5Qw1Er4Ty6Ui8Op9A"}, nil, 0},
		{"at another key", secret(), "PATCH", path, typeMerge, func(o map[string]any) any {
			return map[string]any{"data": map[string]any{"other": o["data"].(map[string]any)["password"]}}
		}, nil, nil, 403},
		{"in an annotation", secret(), "PATCH", path, typeMerge, func(o map[string]any) any {
			return map[string]any{"metadata": map[string]any{"annotations": map[string]any{"note": o["data"].(map[string]any)["password"]}}}
		}, nil, nil, 403},
		{"the other value's", secret(), "PATCH", path, typeMerge, func(o map[string]any) any {
			return map[string]any{"data": map[string]any{"pin": o["data"].(map[string]any)["password"]}}
		}, nil, nil, 403},
		{"in another argument", deployment, "PUT", deploy, typeJSON, func(o map[string]any) any {
			c := o["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)
			c["image"] = c["args"].([]any)[1]
			return o
		}, nil, nil, 403},
		{"a value copied by a patch", secret(), "PATCH", path, typeJSONPatch, func(map[string]any) any {
			return []any{map[string]any{"op": "copy", "from": "/data/password", "path": "/metadata/annotations/note"}}
		}, nil, nil, 403},
		{"a guess tested by a patch", secret(), "PATCH", path, typeJSONPatch, func(map[string]any) any {
			return []any{map[string]any{"op": "test", "path": "/data/pin", "value": weak64}}
		}, nil, nil, 422},
		{"a wrong guess tested by a patch", secret(), "PATCH", path, typeJSONPatch, func(map[string]any) any {
			return []any{map[string]any{"op": "test", "path": "/data/pin", "value": "d3Jvbmc="}}
		}, nil, nil, 422},
		{"a value copied from where an earlier operation moved it", deployment, "PATCH", deploy, typeJSONPatch, func(map[string]any) any {
			return []any{
				map[string]any{"op": "add", "path": envs + "/0", "value": map[string]any{"name": "X", "value": "x"}},
				map[string]any{"op": "copy", "from": envs + "/2/value", "path": "/spec/template/spec/hostname"},
			}
		}, nil, nil, 403},
		{"a guess tested where an earlier operation moved it", deployment, "PATCH", deploy, typeJSONPatch, func(map[string]any) any {
			return []any{
				map[string]any{"op": "add", "path": envs + "/0", "value": map[string]any{"name": "X", "value": "x"}},
				map[string]any{"op": "test", "path": envs + "/2/value", "value": "swordfish"},
			}
		}, nil, nil, 422},
		{"a name that says no more that its value is secret", deployment, "PATCH", deploy, typeJSONPatch, func(map[string]any) any {
			return []any{map[string]any{"op": "replace", "path": envs + "/1/name", "value": "COLOUR"}}
		}, nil, nil, 403},
		{"a flag that says no more that what follows is secret", weakly, "PATCH", deploy, typeJSONPatch, func(map[string]any) any {
			return []any{map[string]any{"op": "replace", "path": "/spec/template/spec/containers/0/args/0", "value": "echo"}}
		}, nil, nil, 403},
		{"the same as a merge patch", weakly, "PATCH", deploy, typeMerge, func(o map[string]any) any {
			one := o["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)
			one["args"].([]any)[0] = "echo"
			return o
		}, nil, nil, 403},
		{"a text that says no more that a part of it is secret", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c","resourceVersion":"3"},"data":{"app.conf":"password: hunter2\n"}}`, "PATCH", "/api/v1/namespaces/a/configmaps/c", typeMerge, func(o map[string]any) any {
			return map[string]any{"data": map[string]any{"app.conf": strings.Replace(o["data"].(map[string]any)["app.conf"].(string), "password:", "note", 1)}}
		}, nil, nil, 403},
		{"an address of which the password alone is left", `{"kind":"App","apiVersion":"example.com/v1","metadata":{"name":"c","resourceVersion":"3"},"spec":{"repoURL":"https://bot:s3cr3t-Value-17-and-Much-Longer-Qx9@git/x"}}`, "PATCH", "/apis/example.com/v1/namespaces/a/apps/c", typeMerge, func(o map[string]any) any {
			url := o["spec"].(map[string]any)["repoURL"].(string)
			i := strings.Index(url, mask.MarkPrefix)
			return map[string]any{"spec": map[string]any{"repoURL": url[i:strings.Index(url, "@")]}}
		}, nil, nil, 403},
		{"quoted in an annotation as another kind", secret(), "PATCH", path, typeMerge, func(o map[string]any) any {
			quoted, err := json.Marshal(map[string]any{"kind": "Status", "data": map[string]any{"k": 1, "password": o["data"].(map[string]any)["password"]}})
			if err != nil {
				panic(err)
			}
			return map[string]any{"metadata": map[string]any{"annotations": map[string]any{"kubectl.kubernetes.io/last-applied-configuration": string(quoted)}}}
		}, nil, nil, 403},
		{"a credential of another manager's guessed in an annotation", `{"kind":"Service","apiVersion":"v1","metadata":{"name":"c","resourceVersion":"3","annotations":{"example.com/api-token":"hunter2"}}}`, "PATCH", "/api/v1/namespaces/a/services/c?fieldManager=m", typeApply, func(map[string]any) any {
			return map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"name": "c", "annotations": map[string]any{"example.com/api-token": "hunter2"}}}
		}, nil, nil, 409},
		{"a guess tested above the value", secret(), "PATCH", path, typeJSONPatch, func(map[string]any) any {
			return []any{map[string]any{"op": "test", "path": "/data", "value": map[string]any{"password": real64, "pin": weak64}}}
		}, nil, nil, 422},
		{"something else tested", secret(), "PATCH", path, typeJSONPatch, func(map[string]any) any {
			return []any{map[string]any{"op": "test", "path": "/metadata/resourceVersion", "value": "7"}, map[string]any{"op": "test", "path": "/type", "value": "Opaque"}}
		}, []string{`"Opaque"`}, nil, 0},
		{"a guess applied", secret(), "PATCH", path + "?fieldManager=m", typeApply, func(map[string]any) any {
			return map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "s"}, "data": map[string]any{"pin": weak64}}
		}, nil, nil, 409},
		{"a guess applied as text", secret(), "PATCH", path + "?fieldManager=m&dryRun=All", typeApply, func(map[string]any) any {
			return map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "s"}, "stringData": map[string]any{"pin": "hunter2"}}
		}, nil, nil, 409},
		{"a new key applied", secret(), "PATCH", path + "?fieldManager=m", typeApply, func(map[string]any) any {
			return map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "s"}, "data": map[string]any{"new": "bmV3"}}
		}, []string{"bmV3"}, nil, 0},
		{"applied by force", secret(), "PATCH", path + "?fieldManager=m&force=true", typeApply, func(map[string]any) any {
			return map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "s"}, "data": map[string]any{"pin": weak64}}
		}, []string{weak64}, nil, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			backend := &stored{object: tc.object}
			srv, _ := front(t, backend.ServeHTTP)
			_, read := call(t, srv, "GET", strings.Split(tc.path, "?")[0], nil, "")
			for _, v := range []string{real64, "hunter2", "s3cr3t", "swordfish"} {
				if strings.Contains(read, v) {
					t.Fatalf("%s passed: %s", v, read)
				}
			}
			var obj map[string]any
			if err := json.Unmarshal([]byte(read), &obj); err != nil {
				t.Fatal(err)
			}
			body := []byte(read)
			if tc.body != nil {
				var err error
				if body, err = json.Marshal(tc.body(obj)); err != nil {
					t.Fatal(err)
				}
			}
			resp, answer := call(t, srv, tc.method, tc.path, http.Header{"Content-Type": {tc.contentType}}, string(body))
			want := tc.code
			if want == 0 {
				want = http.StatusOK
			}
			if resp.StatusCode != want {
				t.Fatalf("got %d %s, want %d", resp.StatusCode, answer, want)
			}
			if want != http.StatusOK && backend.sent != "" {
				t.Errorf("refused, but the API server got %s", backend.sent)
			}
			for _, s := range tc.has {
				if !strings.Contains(backend.sent, s) {
					t.Errorf("the API server got no %s: %s", s, backend.sent)
				}
			}
			for _, s := range append(tc.hasNot, mask.MarkPrefix, base64.StdEncoding.EncodeToString([]byte(mask.MarkPrefix))[:20]) {
				if strings.Contains(backend.sent, s) {
					t.Errorf("the API server got %s: %s", s, backend.sent)
				}
			}
		})
	}
}

func TestI8_MarksInProtobuf(t *testing.T) {
	t.Parallel()
	backend := &stored{object: secret()}
	srv, _ := front(t, backend.ServeHTTP)
	const path = "/api/v1/namespaces/a/secrets/s"
	_, read := call(t, srv, "GET", path, nil, "")
	var s corev1.Secret
	if err := json.Unmarshal([]byte(read), &s); err != nil {
		t.Fatal(err)
	}
	s.TypeMeta = metav1.TypeMeta{Kind: "Secret", APIVersion: "v1"}
	info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), typeProtobuf)
	if !ok {
		t.Fatal("no protobuf")
	}
	body, err := runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion), &s)
	if err != nil {
		t.Fatal(err)
	}
	if resp, answer := call(t, srv, "PUT", path, http.Header{"Content-Type": {typeProtobuf}}, string(body)); resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, answer)
	}
	if !strings.Contains(backend.sent, real64) || backend.sentType != typeJSON {
		t.Errorf("the API server got, as %s, %s", backend.sentType, backend.sent)
	}
}

// A dry run costs no signature, so its answer must not show that a guess is right.
func TestADryRunShowsNoGuess(t *testing.T) {
	t.Parallel()
	srv, _ := front(t, func(w http.ResponseWriter, _ *http.Request) {
		reply("application/json", `{"kind":"Secret","metadata":{"name":"s","namespace":"a","managedFields":[{"manager":"owner","fieldsV1":{"f:data":{"f:pin":{}}}}]},"data":{"pin":"`+weak64+`"}}`)(w, nil)
	})
	const path = "/api/v1/namespaces/a/secrets/s"
	_, read := call(t, srv, "GET", path, nil, "")
	_, again := call(t, srv, "GET", path, nil, "")
	if read != again {
		t.Fatal("the mark isn't the same from read to read")
	}
	_, tried := call(t, srv, "PATCH", path+"?dryRun=All", http.Header{"Content-Type": {typeMerge}}, `{"data":{"pin":"`+weak64+`"}}`)
	if tried == read || strings.Contains(tried, weak64) {
		t.Errorf("got %s", tried)
	}
	// Who owns a field after a write says whether the value was another.
	if !strings.Contains(read, "f:pin") || !strings.Contains(tried, `"managedFields":[]`) {
		t.Errorf("read %s, tried %s", read, tried)
	}
}

func TestI7_WhatOthersSayOfASecretIsMasked(t *testing.T) {
	t.Parallel()
	for name, said := range map[string]string{
		"a webhook":  `admission webhook \"lint.example.com\" denied the request: hunter2 is weak`,
		"a policy":   `secrets \"s\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: hunter2 is weak`,
		"RBAC":       `secrets \"s\" is forbidden: User \"agent:a:b\" cannot update resource \"secrets\"`,
		"Tipstaff's": `admission webhook \"changes.tipstaff.dev\" denied the request: held by rule \"secrets\"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, _ := front(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Warning", `299 - "password: hunter2 is weak"`)
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusForbidden)
				_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"`+said+`"}`)
			})
			resp, body := call(t, srv, "PUT", "/api/v1/namespaces/a/secrets/s", http.Header{"Content-Type": {typeJSON}}, `{"kind":"Secret","metadata":{"name":"s"}}`)
			if all := body + strings.Join(resp.Header["Warning"], ""); strings.Contains(all, "hunter2") {
				t.Errorf("got %s", all)
			}
			if own := strings.HasSuffix(said, "weak"); !own && !strings.Contains(body, said) {
				t.Errorf("got %s, want it as it is", body)
			}
		})
	}
}

func TestNothingIsSelectedByWhatIsMasked(t *testing.T) {
	t.Parallel()
	srv, _ := front(t, mustNotCall(t))
	resp, body := call(t, srv, "GET", "/api/v1/secrets?fieldSelector=data.pin%3Dhunter2", nil, "")
	if resp.StatusCode != http.StatusForbidden || !strings.Contains(body, "masked") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	resp, _ = call(t, srv, "GET", "/api/v1/secrets?fieldSelector=%3D%3D%3Da,b", nil, "")
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("an unreadable selector: %d", resp.StatusCode)
	}
	srv, _ = front(t, reply("application/json", `{"kind":"SecretList","items":[]}`))
	if resp, body := call(t, srv, "GET", "/api/v1/secrets?fieldSelector=metadata.name%3Ds,type%3DOpaque", nil, ""); resp.StatusCode != http.StatusOK {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

var secretInfo = &request.RequestInfo{IsResourceRequest: true, Verb: "update", Path: "/api/v1/namespaces/a/secrets/s", APIPrefix: "api", APIVersion: "v1", Namespace: "a", Resource: "secrets", Name: "s"}

func currentSecret(context.Context) ([]byte, *apierrors.StatusError) { return []byte(secret()), nil }

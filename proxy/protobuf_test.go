package proxy

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/tipstaff-dev/tipstaff/mask"
)

var protobufAlone = http.Header{"Accept": {"application/vnd.kubernetes.protobuf, application/cbor"}, "Content-Type": {"application/json"}}

func TestClientsThatTakeProtobufAloneGetIt(t *testing.T) {
	t.Parallel()
	var accept string
	answer := ""
	srv, _ := front(t, func(w http.ResponseWriter, r *http.Request) {
		accept = r.Header.Get("Accept")
		reply("application/json", answer)(w, r)
	})
	decode := func(body string) runtime.Object {
		obj, _, err := scheme.Codecs.UniversalDeserializer().Decode([]byte(body), nil, nil)
		if err != nil {
			t.Fatalf("%v: %q", err, body)
		}
		return obj
	}

	answer = secret()
	resp, body := call(t, srv, "GET", "/api/v1/namespaces/a/secrets/s", protobufAlone, "")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != typeProtobuf || accept != typeJSON {
		t.Fatalf("%d %v %q, the API server was asked for %q", resp.StatusCode, resp.Header, body, accept)
	}
	got, ok := decode(body).(*corev1.Secret)
	if !ok || got.Name != "s" || !mask.HasMark(string(got.Data["password"])) || !strings.HasPrefix(string(got.Data["password"]), "tipstaff-masked-") {
		t.Errorf("got %+v", got)
	}

	answer = `{"kind":"SecretList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[` + secret() + `,` + secret() + `]}`
	_, body = call(t, srv, "GET", "/api/v1/secrets", protobufAlone, "")
	if got, ok := decode(body).(*corev1.SecretList); !ok || len(got.Items) != 2 || !mask.HasMark(string(got.Items[1].Data["password"])) {
		t.Errorf("got %+v", got)
	}

	// Metadata alone, as garbage collectors ask for it.
	answer = `{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"s"}}`
	h := http.Header{"Accept": {"application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"}}
	if _, body = call(t, srv, "GET", "/api/v1/namespaces/a/secrets/s", h, ""); !strings.HasPrefix(body, "k8s\x00") || !strings.Contains(accept, "as=PartialObjectMetadata") {
		t.Errorf("got %q, asked for %q", body, accept)
	}

	answer = `{"kind":"Status","apiVersion":"v1","status":"Failure","code":404,"reason":"NotFound"}`
	if _, body = call(t, srv, "GET", "/api/v1/namespaces/a/secrets/s", protobufAlone, ""); decode(body).(*metav1.Status).Reason != metav1.StatusReasonNotFound {
		t.Errorf("got %q", body)
	}
}

func TestWhatIsNoProtobufIsRefusedOrStaysJSON(t *testing.T) {
	t.Parallel()
	var answer string
	srv, _ := front(t, func(w http.ResponseWriter, r *http.Request) { reply("application/json", answer)(w, r) })
	for name, body := range map[string]string{
		"a kind of somebody else's":              `{"kind":"Widget","apiVersion":"example.com/v1","metadata":{"name":"w"}}`,
		"a field that this version doesn't know": `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c"},"later":{"a":1}}`,
		"too much":                               `{"kind":"ConfigMapList","apiVersion":"v1","items":[{}` + strings.Repeat(`,{"metadata":{"name":"`+strings.Repeat("x ", 1<<19)+`"}}`, 17) + `]}`,
	} {
		answer = body
		resp, text := call(t, srv, "GET", "/api/v1/namespaces/a/configmaps/c", protobufAlone, "")
		if resp.StatusCode != http.StatusNotAcceptable || resp.Header.Get("Content-Type") != "application/json" || !strings.Contains(text, "ask for that") {
			t.Errorf("%s: %d %.200s", name, resp.StatusCode, text)
		}
		// What was done is done: its answer isn't an error.
		resp, text = call(t, srv, "POST", "/api/v1/namespaces/a/configmaps", protobufAlone, `{"kind":"ConfigMap"}`)
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" || len(strings.TrimSpace(text)) != len(body) {
			t.Errorf("%s, created: %d, %d bytes of %d", name, resp.StatusCode, len(text), len(body))
		}
	}
}

// FuzzToProtobuf has whatever masked JSON there is: no panic, and what becomes
// protobuf is read again by client-go's decoder.
func FuzzToProtobuf(f *testing.F) {
	f.Add([]byte(secret()))
	f.Add([]byte(`{"kind":"PodList","apiVersion":"v1","items":[{"spec":{"containers":[{"name":"a"}]}}]}`))
	f.Add([]byte(fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","code":%d}`, 404)))
	f.Fuzz(func(t *testing.T, body []byte) {
		out, err := toProtobuf(body)
		if err != nil {
			return
		}
		if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(out, nil, nil); err != nil {
			t.Skip() // kinds that client-go's scheme leaves out
		}
	})
}

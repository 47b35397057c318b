package admissionreview

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"

	"github.com/tipstaff-dev/tipstaff/internal/jsontree"
)

const sent = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"UPDATE","userInfo":{"username":"u","extra":{"a":["b"]}}`

func TestRead(t *testing.T) {
	t.Parallel()
	for i, text := range []string{
		sent + `,"object":{"a":1},"oldObject":{"b":[2]},"options":{"c":"3"},"newer":{"x":1}}}`,
		sent + `,"oldObject": {"b":[2]} , "options":{"c":"3"} , "object" :{"a":1}}}`,
		strings.Replace(sent, `"uid"`, `"object":{"a":1},"uid"`, 1) + `,"oldObject":{"b":[2]},"options":{"c":"3"}}}`,
	} {
		r, err := Read(strings.NewReader(text), int64(i%3-1)*int64(len(text)))
		if err != nil {
			t.Fatal(err)
		}
		for what, got := range map[string][2]string{
			`{"a":1}`:   {string(r.Object.Raw()), string(r.Request.Object.Raw)},
			`{"b":[2]}`: {string(r.OldObject.Raw()), string(r.Request.OldObject.Raw)},
			`{"c":"3"}`: {string(r.Options.Raw()), string(r.Request.Options.Raw)},
		} {
			if got[0] != what || got[1] != what {
				t.Errorf("got %q, want %s", got, what)
			}
		}
		if r.Request.UID != "1" || r.Request.Operation != admissionv1.Update || r.Request.UserInfo.Username != "u" || r.Request.UserInfo.Extra["a"][0] != "b" {
			t.Errorf("got %+v", r.Request)
		}
		again, err := Of(r.Request)
		if err != nil || string(again.OldObject.Raw()) != `{"b":[2]}` {
			t.Errorf("of the request: %v %v", again, err)
		}
	}
	r, err := Read(strings.NewReader(sent+`,"object":null,"options":null}}`), 1<<40)
	if err != nil || r.Object.Kind() != 0 || r.OldObject.Kind() != 0 || r.Request.Object.Raw != nil || r.Request.OldObject.Raw != nil {
		t.Errorf("null is an object: %+v, %v", r, err)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	for i, text := range []string{
		"", "null", "[]", "{}", "secret", sent, sent + "}}x",
		sent + `,"object":{"secret":1,"secret":2}}}`,
		sent + `,"object":{"a":{"secret":1,"secre\u0074":2}}}}`,
		sent + `,"uid":"secret"}}`,
		sent + `,"object":{"a":1},"object":{"secret":2}}}`,
		sent + `,"name":{"secret":1}}}`,
		sent + `},"request":{"uid":"secret","operation":"CREATE"}}`,
		strings.Replace(sent, `"uid":"1"`, `"uid":""`, 1) + "}}",
		strings.Replace(sent, `"username":"u"`, `"username":""`, 1) + "}}",
		strings.Replace(sent, "UPDATE", "secret", 1) + "}}",
		strings.Replace(sent, "v1", "v1beta1", 1) + "}}",
		strings.Replace(sent, "AdmissionReview", "secret", 1) + "}}",
		`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":"secret"}`,
		`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":[{"object":{}}]}`,
		strings.Repeat(`{"request":`, 20_000),
	} {
		r, err := Read(strings.NewReader(text), int64(i%3-1)*int64(len(text)))
		if r != nil || !errors.Is(err, ErrMalformed) {
			t.Errorf("%.200s: %+v, %v", text, r, err)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error quotes the body: %v", err)
		}
	}
	if _, err := Read(broken{}, 10); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "connection reset") {
		t.Errorf("a body that can't be read: %v", err)
	}
}

// bodies are what reviews may look like, one mistyped or missing field after the other among them.
var bodies = func() []string {
	all := []string{
		sent + `,"object":{"a":1},"oldObject":null,"options":{"c":"3"},"newer":{"x":1}}}`,
		`{"request":{"uid":"1","operation":"DELETE","userInfo":{"username":"u"},"UID":"2","Uid":"3"},"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}`,
		`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"\u0031\ud83d\ude00","kind":{"group":"apps","version":"v1","kind":"Scale"},` +
			`"resource":{"group":"apps","version":"v1","resource":"deployments"},"subResource":"scale","requestKind":{"group":"g"},"requestResource":{"resource":"r"},` +
			`"requestSubResource":"s","name":"n","namespace":"ns","operation":"CREATE","userInfo":{"username":"u","uid":"i","groups":["a",null,"b"],"extra":{"k":["v",null],"n":null,"e":[]}},"dryRun":true}}`,
		`null`, `[]`, `{"request":null}`,
	}
	for _, field := range []string{
		"uid", "kind", "resource", "subResource", "requestKind", "requestResource", "requestSubResource", "name", "namespace", "operation", "userInfo", "dryRun", "options", "object",
	} {
		for _, v := range []string{"null", "true", "false", "7", `"x"`, "[]", `["x"]`, "[7]", "{}", `{"group":7}`, `{"kind":null}`, `{"groups":{}}`, `{"extra":[]}`, `{"extra":{"k":"v"}}`, `{"extra":{"k":[{}]}}`} {
			b := strings.ReplaceAll(all[2], `"`+field+`":`, `"was`+field+`":`)
			all = append(all, strings.Replace(b, `"request":{`, `"request":{"`+field+`":`+v+`,`, 1))
		}
	}
	return all
}()

// likeTheLibrary holds that a review is read as sigs.k8s.io/json decodes it.
func likeTheLibrary(t *testing.T, b []byte) {
	t.Helper()
	r, err := Parse(b)
	var want admissionv1.AdmissionReview
	strict, decodeErr := kjson.UnmarshalStrict(b, &want, kjson.DisallowDuplicateFields)
	if err == nil && decodeErr != nil {
		t.Fatalf("the library refuses %q: %v", b, decodeErr)
	}
	if err != nil {
		known := want.Request != nil && slices.Contains([]admissionv1.Operation{"CREATE", "UPDATE", "DELETE", "CONNECT"}, want.Request.Operation) && want.Request.UserInfo.Username != ""
		if _, parseErr := jsontree.Parse(b); parseErr == nil && decodeErr == nil && len(strict) == 0 && known && want.Request.UID != "" &&
			want.Kind == "AdmissionReview" && want.APIVersion == "admission.k8s.io/v1" {
			t.Fatalf("the library takes %q: %v", b, err)
		}
		return
	}
	for _, part := range []struct{ got, want *runtime.RawExtension }{
		{&r.Request.Object, &want.Request.Object}, {&r.Request.OldObject, &want.Request.OldObject}, {&r.Request.Options, &want.Request.Options},
	} {
		if string(part.want.Raw) == "null" {
			part.want.Raw = nil
		}
		if !bytes.Equal(part.got.Raw, part.want.Raw) {
			t.Errorf("object %q, want %q", part.got.Raw, part.want.Raw)
		}
		part.got.Raw, part.want.Raw = nil, nil
	}
	if !equality.Semantic.DeepEqual(r.Request, want.Request) {
		t.Errorf("%q is read as\n%+v, the library has\n%+v", b, r.Request, want.Request)
	}
}

func TestReadsWhatTheLibraryDecodes(t *testing.T) {
	t.Parallel()
	read := 0
	for _, text := range bodies {
		likeTheLibrary(t, []byte(text))
		if _, err := Parse([]byte(text)); err == nil {
			read++
		}
	}
	if read < 50 || read > len(bodies)-50 {
		t.Errorf("%d of %d bodies are read: too few of one sort to show anything", read, len(bodies))
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range bodies {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) { likeTheLibrary(t, b) })
}

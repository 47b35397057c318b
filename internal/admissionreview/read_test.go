package admissionreview

import (
	"errors"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
)

const envelope = `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"1","operation":"UPDATE","userInfo":{"username":"u","extra":{"a":["b"]}}`

func TestRead(t *testing.T) {
	t.Parallel()
	for i, text := range []string{
		envelope + `,"object":{"a":1},"oldObject":{"b":[2]},"options":{"c":"3"},"newer":{"x":1}}}`,
		envelope + `,"oldObject": {"b":[2]} , "options":{"c":"3"} , "object" :{"a":1}}}`,
		strings.Replace(envelope, `"uid"`, `"object":{"a":1},"uid"`, 1) + `,"oldObject":{"b":[2]},"options":{"c":"3"}}}`,
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
	r, err := Read(strings.NewReader(envelope+`,"object":null,"options":null}}`), 1<<40)
	if err != nil || r.Object.Kind() != 0 || r.OldObject.Kind() != 0 || r.Request.Object.Raw != nil || r.Request.OldObject.Raw != nil {
		t.Errorf("null is an object: %+v, %v", r, err)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	for i, text := range []string{
		"", "null", "[]", "{}", "secret", envelope, envelope + "}}x",
		envelope + `,"object":{"secret":1,"secret":2}}}`,
		envelope + `,"object":{"a":{"secret":1,"secre\u0074":2}}}}`,
		envelope + `,"uid":"secret"}}`,
		envelope + `,"object":{"a":1},"object":{"secret":2}}}`,
		envelope + `,"name":{"secret":1}}}`,
		envelope + `},"request":{"uid":"secret","operation":"CREATE"}}`,
		strings.Replace(envelope, `"uid":"1"`, `"uid":""`, 1) + "}}",
		strings.Replace(envelope, "UPDATE", "secret", 1) + "}}",
		strings.Replace(envelope, "v1", "v1beta1", 1) + "}}",
		strings.Replace(envelope, "AdmissionReview", "secret", 1) + "}}",
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

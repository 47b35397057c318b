// Package admissionreview reads what the API server posts to an admission
// webhook. It promises a request that two readers could not understand in two
// ways, and errors that quote nothing of the body.
package admissionreview

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tipstaff-dev/tipstaff/internal/jsontree"
)

// ErrMalformed means that the body is no AdmissionReview that can be judged: answer 400.
var ErrMalformed = errors.New("malformed admission review")

// Review is one request, and its objects checked but not decoded: absent where
// the request has none. The request's raw objects alias them.
type Review struct {
	Request                    *admissionv1.AdmissionRequest
	Object, OldObject, Options jsontree.Value
}

// Read reads one AdmissionReview (admission.k8s.io/v1). A field given twice
// anywhere in it is refused, since two readers could take different ones; an
// unknown field is not, since a newer API server may add some. Every error is
// ErrMalformed; a body that could not be read keeps its cause. size is what the
// body is said to have, as http.Request.ContentLength: no more than a hint.
func Read(body io.Reader, size int64) (*Review, error) {
	var b bytes.Buffer
	if size > 0 {
		b.Grow(int(min(size, maxAhead)) + bytes.MinRead)
	}
	if _, err := b.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return Parse(b.Bytes())
}

// maxAhead is how much is made room for before it is there.
const maxAhead = 1 << 20

// Parse is Read of what was read already. The review aliases b.
func Parse(b []byte) (*Review, error) {
	root, err := jsontree.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	var e envelope
	said := root.Get("request")
	r := &Review{Request: e.request(said)}
	kind, version := e.text(root.Get("kind")), e.text(root.Get("apiVersion"))
	switch {
	case e.mistyped:
		return nil, fmt.Errorf("%w: not of that type", ErrMalformed)
	case version != admissionv1.SchemeGroupVersion.String() || kind != "AdmissionReview":
		return nil, fmt.Errorf("%w: not admission.k8s.io/v1 AdmissionReview", ErrMalformed)
	case r.Request == nil || r.Request.UID == "":
		return nil, fmt.Errorf("%w: no request or no uid", ErrMalformed)
	case r.Request.UserInfo.Username == "":
		return nil, fmt.Errorf("%w: no user", ErrMalformed) // everybody has a name, system:anonymous too
	}
	for _, part := range []struct {
		name  string
		value *jsontree.Value
		raw   *runtime.RawExtension
	}{{"object", &r.Object, &r.Request.Object}, {"oldObject", &r.OldObject, &r.Request.OldObject}, {"options", &r.Options, &r.Request.Options}} {
		if v := said.Get(part.name); !v.IsNull() {
			*part.value, part.raw.Raw = v, v.Raw()
		}
	}
	switch r.Request.Operation {
	case admissionv1.Create, admissionv1.Update, admissionv1.Delete, admissionv1.Connect:
		return r, nil
	}
	return nil, fmt.Errorf("%w: unknown operation", ErrMalformed)
}

// envelope takes what a request says beside its objects from the values that
// were parsed: to decode the text once more took longer than to parse it. Names
// are told apart by case and null leaves a field empty, as sigs.k8s.io/json has it.
type envelope struct {
	mistyped bool // something was not of its field's type
}

// of reports whether v is of that kind. What is neither, nor null, is mistyped.
func (e *envelope) of(kind jsontree.Kind, v jsontree.Value) bool {
	if v.IsNull() {
		return false
	}
	e.mistyped = e.mistyped || v.Kind() != kind
	return v.Kind() == kind
}

func (e *envelope) text(v jsontree.Value) string {
	e.of('"', v)
	return v.String()
}

func (e *envelope) texts(v jsontree.Value) []string {
	if !e.of('[', v) {
		return nil
	}
	all := make([]string, 0, v.Len())
	for item := range v.Items() {
		all = append(all, e.text(item))
	}
	return all
}

func (e *envelope) request(v jsontree.Value) *admissionv1.AdmissionRequest {
	if !e.of('{', v) {
		return nil
	}
	return &admissionv1.AdmissionRequest{
		UID:                types.UID(e.text(v.Get("uid"))),
		Kind:               e.kind(v.Get("kind")),
		Resource:           e.resource(v.Get("resource")),
		SubResource:        e.text(v.Get("subResource")),
		RequestKind:        optional(v.Get("requestKind"), e.kind),
		RequestResource:    optional(v.Get("requestResource"), e.resource),
		RequestSubResource: e.text(v.Get("requestSubResource")),
		Name:               e.text(v.Get("name")),
		Namespace:          e.text(v.Get("namespace")),
		Operation:          admissionv1.Operation(e.text(v.Get("operation"))),
		UserInfo:           e.user(v.Get("userInfo")),
		DryRun:             optional(v.Get("dryRun"), e.truth),
	}
}

func (e *envelope) kind(v jsontree.Value) metav1.GroupVersionKind {
	e.of('{', v)
	return metav1.GroupVersionKind{Group: e.text(v.Get("group")), Version: e.text(v.Get("version")), Kind: e.text(v.Get("kind"))}
}

func (e *envelope) resource(v jsontree.Value) metav1.GroupVersionResource {
	e.of('{', v)
	return metav1.GroupVersionResource{Group: e.text(v.Get("group")), Version: e.text(v.Get("version")), Resource: e.text(v.Get("resource"))}
}

func (e *envelope) user(v jsontree.Value) authenticationv1.UserInfo {
	e.of('{', v)
	u := authenticationv1.UserInfo{Username: e.text(v.Get("username")), UID: e.text(v.Get("uid")), Groups: e.texts(v.Get("groups"))}
	if extra := v.Get("extra"); e.of('{', extra) {
		u.Extra = make(map[string]authenticationv1.ExtraValue, extra.Len())
		for name, values := range extra.Members() {
			u.Extra[name] = e.texts(values)
		}
	}
	return u
}

func (e *envelope) truth(v jsontree.Value) bool {
	e.mistyped = e.mistyped || v.Kind() != 't' && v.Kind() != 'f'
	return v.Kind() == 't'
}

// optional is nil where there is nothing.
func optional[T any](v jsontree.Value, read func(jsontree.Value) T) *T {
	if v.IsNull() {
		return nil
	}
	t := read(v)
	return &t
}

// Of is the review of a request whose raw objects are still to be checked.
func Of(req *admissionv1.AdmissionRequest) (*Review, error) {
	r := &Review{Request: req}
	for _, part := range []struct {
		what  string
		value *jsontree.Value
		raw   runtime.RawExtension
	}{{"object", &r.Object, req.Object}, {"oldObject", &r.OldObject, req.OldObject}, {"options", &r.Options, req.Options}} {
		if len(part.raw.Raw) == 0 || string(part.raw.Raw) == "null" {
			continue
		}
		v, err := jsontree.Parse(part.raw.Raw)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, part.what, err)
		}
		*part.value = v
	}
	return r, nil
}

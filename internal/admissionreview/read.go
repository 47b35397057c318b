// Package admissionreview reads what the API server posts to an admission
// webhook. It promises a request that two readers could not understand in two
// ways, and errors that quote nothing of the body.
package admissionreview

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"

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
	r := &Review{Object: root.At("request", "object"), OldObject: root.At("request", "oldObject"), Options: root.At("request", "options")}
	var ar admissionv1.AdmissionReview
	if err := kjson.UnmarshalCaseSensitivePreserveInts(without(b, r.Object, r.OldObject), &ar); err != nil {
		return nil, fmt.Errorf("%w: not of that type", ErrMalformed) // the cause may quote the body
	}
	switch {
	case ar.APIVersion != admissionv1.SchemeGroupVersion.String() || ar.Kind != "AdmissionReview":
		return nil, fmt.Errorf("%w: not admission.k8s.io/v1 AdmissionReview", ErrMalformed)
	case ar.Request == nil || ar.Request.UID == "":
		return nil, fmt.Errorf("%w: no request or no uid", ErrMalformed)
	}
	r.Request = ar.Request
	for _, part := range []struct {
		value *jsontree.Value
		raw   *runtime.RawExtension
	}{{&r.Object, &ar.Request.Object}, {&r.OldObject, &ar.Request.OldObject}, {&r.Options, &ar.Request.Options}} {
		if part.value.IsNull() {
			*part.value = jsontree.Value{}
		}
		part.raw.Raw = part.value.Raw()
	}
	switch ar.Request.Operation {
	case admissionv1.Create, admissionv1.Update, admissionv1.Delete, admissionv1.Connect:
		return r, nil
	}
	return nil, fmt.Errorf("%w: unknown operation", ErrMalformed)
}

// without is b with null in place of these values: most of its bytes, which need
// no type to be read into. b itself stays as it is.
func without(b []byte, values ...jsontree.Value) []byte {
	values = slices.DeleteFunc(values, func(v jsontree.Value) bool { return v.IsNull() })
	slices.SortFunc(values, func(x, y jsontree.Value) int {
		a, _ := x.Span()
		b, _ := y.Span()
		return a - b
	})
	size := len(b)
	for _, v := range values {
		size -= len(v.Raw())
	}
	rest, done := make([]byte, 0, size+len(values)*len("null")), 0
	for _, v := range values {
		from, to := v.Span()
		rest = append(append(rest, b[done:from]...), "null"...)
		done = to
	}
	return append(rest, b[done:]...)
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

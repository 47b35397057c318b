// Package admissionreview reads what the API server posts to an admission
// webhook. It promises a request that two readers could not understand in two
// ways, and errors that quote nothing of the body.
package admissionreview

import (
	"errors"
	"fmt"
	"io"

	admissionv1 "k8s.io/api/admission/v1"
	kjson "sigs.k8s.io/json"
)

// ErrMalformed means that the body is no AdmissionReview that can be judged: answer 400.
var ErrMalformed = errors.New("malformed admission review")

// Read reads one AdmissionReview (admission.k8s.io/v1). A field given twice is
// refused, since two readers could take different ones; an unknown field is not,
// since a newer API server may add some. Every error is
// ErrMalformed; a body that could not be read keeps its cause.
func Read(body io.Reader) (*admissionv1.AdmissionRequest, error) {
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	var ar admissionv1.AdmissionReview
	twice, err := kjson.UnmarshalStrict(b, &ar, kjson.DisallowDuplicateFields)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: not JSON of that type", ErrMalformed) // the cause may quote the body
	case len(twice) > 0:
		return nil, fmt.Errorf("%w: %d fields given twice", ErrMalformed, len(twice))
	case ar.APIVersion != admissionv1.SchemeGroupVersion.String() || ar.Kind != "AdmissionReview":
		return nil, fmt.Errorf("%w: not admission.k8s.io/v1 AdmissionReview", ErrMalformed)
	case ar.Request == nil || ar.Request.UID == "":
		return nil, fmt.Errorf("%w: no request or no uid", ErrMalformed)
	}
	switch ar.Request.Operation {
	case admissionv1.Create, admissionv1.Update, admissionv1.Delete, admissionv1.Connect:
		return ar.Request, nil
	}
	return nil, fmt.Errorf("%w: unknown operation", ErrMalformed)
}

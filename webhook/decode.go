package webhook

import (
	"errors"
	"fmt"
	"io"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// maxReviewBytes caps one AdmissionReview. The API server takes bodies of at
// most 3 MiB (apiserver v1.37, config.MaxRequestBodyBytes); the binary form
// grows by a third as base64 in JSON. Old and new object and the envelope:
// 4 + 4 + 1 MiB. What is larger is refused.
const maxReviewBytes = 9 << 20

// review is one request of an agent, decoded.
type review struct {
	req   *admissionv1.AdmissionRequest
	agent v1alpha1.Agent
	// action says in a few words what it does.
	action                     string
	object, oldObject, options map[string]any // nil where the request has none
}

// errMalformed means that the body is no AdmissionReview of ours: 400.
var errMalformed = errors.New("malformed admission review")

// readRequest reads one AdmissionReview. A field given twice is refused, since
// two readers could take different ones; an unknown field is not, since a newer
// API server may add some. Unless err is nil, the request is nil.
func readRequest(body io.Reader) (*admissionv1.AdmissionRequest, error) {
	b, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	var ar admissionv1.AdmissionReview
	twice, err := kjson.UnmarshalStrict(b, &ar, kjson.DisallowDuplicateFields)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: not JSON of that type", errMalformed) // the cause may quote the body
	case len(twice) > 0:
		return nil, fmt.Errorf("%w: %d fields given twice", errMalformed, len(twice))
	case ar.APIVersion != admissionv1.SchemeGroupVersion.String() || ar.Kind != "AdmissionReview":
		return nil, fmt.Errorf("%w: not admission.k8s.io/v1 AdmissionReview", errMalformed)
	case ar.Request == nil || ar.Request.UID == "":
		return nil, fmt.Errorf("%w: no request or no uid", errMalformed)
	}
	switch ar.Request.Operation {
	case admissionv1.Create, admissionv1.Update, admissionv1.Delete, admissionv1.Connect:
		return ar.Request, nil
	}
	return nil, fmt.Errorf("%w: unknown operation", errMalformed)
}

// open decodes the objects in a request.
func open(req *admissionv1.AdmissionRequest, agent v1alpha1.Agent) (*review, error) {
	r := &review{req: req, agent: agent}
	for _, part := range []struct {
		what string
		raw  runtime.RawExtension
		into *map[string]any
	}{{"object", req.Object, &r.object}, {"oldObject", req.OldObject, &r.oldObject}, {"options", req.Options, &r.options}} {
		if len(part.raw.Raw) == 0 || string(part.raw.Raw) == "null" {
			continue
		}
		twice, err := kjson.UnmarshalStrict(part.raw.Raw, part.into, kjson.DisallowDuplicateFields)
		if err != nil {
			return nil, fmt.Errorf("decode %s: not a JSON object", part.what) // the cause may quote a value
		}
		if len(twice) > 0 {
			return nil, fmt.Errorf("decode %s: %d fields given twice", part.what, len(twice))
		}
	}
	r.action = action(req, r.object, r.oldObject)
	return r, nil
}

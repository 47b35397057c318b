package webhook

import (
	"fmt"

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

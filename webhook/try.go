package webhook

import (
	"reflect"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/tipstaff-dev/tipstaff/approvals"
)

// tryOf says what r shows of whether an earlier try of it was carried out. It
// reads the objects as they came: the fingerprint leaves out just what it needs.
func tryOf(r *review) approvals.Try {
	old, _ := r.oldObject["metadata"].(map[string]any)
	generation, _ := old["generation"].(int64)
	t := approvals.Try{
		RequestUID: string(r.req.UID), ObjectUID: stringOf(old["uid"]),
		ResourceVersion: stringOf(old["resourceVersion"]), Generation: generation,
	}
	if r.req.SubResource != "" || r.req.RequestSubResource != "" || r.req.Name == "" || t.ObjectUID == "" || t.ResourceVersion == "" {
		return t
	}
	switch r.req.Operation {
	case admissionv1.Delete:
		if old["deletionTimestamp"] == nil {
			t.Proof = approvals.ProofDelete
		}
	case admissionv1.Update:
		t.Proof = approvals.ProofVersion
		is, _ := r.object["metadata"].(map[string]any)
		next, _ := is["generation"].(int64)
		// The API server sets the new generation before it asks us: a change that
		// will not move it shows here.
		if generation > 0 && next > generation && !reflect.DeepEqual(r.object["spec"], r.oldObject["spec"]) {
			t.Proof = approvals.ProofGeneration
		}
	}
	return t
}

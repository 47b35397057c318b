package webhook

import (
	"reflect"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// tryOf says what r shows of whether an earlier try of it was carried out. It
// reads the objects as they came: the fingerprint leaves out just what it needs.
func tryOf(r *review) v1alpha1.Try {
	old, _ := r.oldObject()["metadata"].(map[string]any)
	generation, _ := old["generation"].(int64)
	t := v1alpha1.Try{
		RequestUID: string(r.req.UID), ObjectUID: stringOf(old["uid"]),
		ResourceVersion: stringOf(old["resourceVersion"]), Generation: generation,
	}
	if r.req.SubResource != "" || r.req.RequestSubResource != "" || r.req.Name == "" || t.ObjectUID == "" || t.ResourceVersion == "" {
		return t
	}
	switch r.req.Operation {
	case admissionv1.Delete:
		if old["deletionTimestamp"] == nil {
			t.Proof = v1alpha1.ProofDelete
		}
	case admissionv1.Update:
		t.Proof = v1alpha1.ProofVersion
		is, _ := r.object()["metadata"].(map[string]any)
		next, _ := is["generation"].(int64)
		// The API server sets the new generation before it asks us: a change that
		// will not move it shows here.
		if generation > 0 && next > generation && !reflect.DeepEqual(r.object()["spec"], r.oldObject()["spec"]) {
			t.Proof = v1alpha1.ProofGeneration
		}
	}
	return t
}

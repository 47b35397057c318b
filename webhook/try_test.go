package webhook

import (
	"testing"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

func TestWhatShowsARetry(t *testing.T) {
	t.Parallel()
	const old = "{metadata: {uid: u, resourceVersion: '7', generation: 2}, spec: {a: 1}}"
	tests := []struct {
		name, line, object, old string
		want                    v1alpha1.Proof
	}{
		{"a delete", "DELETE apps/deployments shop web", "", old, v1alpha1.ProofDelete},
		{"a delete of what is being deleted", "DELETE apps/deployments shop web", "", "{metadata: {uid: u, resourceVersion: '7', deletionTimestamp: '2026-01-01T00:00:00Z'}}", v1alpha1.ProofNone},
		{"a delete of a collection", "DELETE apps/deployments shop -", "", old, v1alpha1.ProofNone},
		{"an update that moves the generation by its spec", updateLine, "{metadata: {uid: u, resourceVersion: '7', generation: 3}, spec: {a: 2}}", old, v1alpha1.ProofGeneration},
		{"an update of the spec that does not move it", updateLine, "{metadata: {uid: u, resourceVersion: '7', generation: 2}, spec: {a: 2}}", old, v1alpha1.ProofVersion},
		{"an update that moves it by something else", updateLine, "{metadata: {uid: u, resourceVersion: '7', generation: 3, labels: {a: b}}, spec: {a: 1}}", old, v1alpha1.ProofVersion},
		{"a subresource", "UPDATE apps/deployments/scale shop web", "{metadata: {uid: u, resourceVersion: '7'}, spec: {replicas: 2}}", "{metadata: {uid: u, resourceVersion: '7'}}", v1alpha1.ProofNone},
		{"an object without a version", "DELETE apps/deployments shop web", "", "{metadata: {uid: u}}", v1alpha1.ProofNone},
		{"a create", "CREATE apps/deployments shop web", "{spec: {a: 1}}", "", v1alpha1.ProofNone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req := request(t, tt.line, tt.object, tt.old)
			if tt.line == "DELETE apps/deployments shop -" {
				req.Name = ""
			}
			r, err := open(req, testAgent)
			if err != nil {
				t.Fatal(err)
			}
			if got := tryOf(r); got.Proof != tt.want || got.RequestUID != string(req.UID) {
				t.Errorf("got %+v, want proof %d", got, tt.want)
			}
		})
	}
}

// TestTheFingerprintHoldsTheDeletion: that a DELETE was carried out shows in the
// old object, so the fingerprint must not lose it.
func TestTheFingerprintHoldsTheDeletion(t *testing.T) {
	t.Parallel()
	fp := func(old string) string {
		return string(fingerprintOf(t, request(t, "DELETE apps/deployments shop web", "", old), testAgent))
	}
	was := fp("{metadata: {uid: u, resourceVersion: '7'}}")
	if fp("{metadata: {uid: u, resourceVersion: '8', deletionTimestamp: '2026-01-01T00:00:00Z'}}") == was {
		t.Error("an object that is being deleted has the same fingerprint")
	}
	if fp("{metadata: {uid: u, resourceVersion: '8'}}") != was {
		t.Error("another resourceVersion alone makes another request")
	}
	if fp("{metadata: {uid: v, resourceVersion: '7'}}") == was {
		t.Error("another object has the same fingerprint")
	}
}

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Revocation ends what one run may do: its tokens and its changes are refused
// while the object exists.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:printcolumn:name="Run",type=string,JSONPath=`.spec.run`
// +kubebuilder:printcolumn:name="Issuer",type=string,JSONPath=`.spec.issuer`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.spec.reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Revocation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a revocation's spec never changes"
	Spec RevocationSpec `json:"spec"`
}

// RevocationSpec says what is revoked, and why.
type RevocationSpec struct {
	// Run is the run's id.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Run string `json:"run"`
	// Issuer narrows it to one issuer's run of that id; empty means any issuer's.
	// +optional
	Issuer string `json:"issuer,omitempty"`
	// Reason is told to the run and kept for the record.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason"`
}

// RevocationList is a list of revocations.
//
// +kubebuilder:object:root=true
type RevocationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Revocation `json:"items"`
}

// Revokes reports whether r ends a's run.
func (r *Revocation) Revokes(a Agent) bool {
	return r.Spec.Run == a.Run && (r.Spec.Issuer == "" || r.Spec.Issuer == a.Issuer)
}

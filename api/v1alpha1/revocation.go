package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Revocation ends what some agents may do: their tokens and their changes are
// refused while the object exists and its time hasn't come.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:printcolumn:name="Run",type=string,JSONPath=`.spec.run`
// +kubebuilder:printcolumn:name="Issuer",type=string,JSONPath=`.spec.issuer`
// +kubebuilder:printcolumn:name="Subject",type=string,JSONPath=`.spec.subject`
// +kubebuilder:printcolumn:name="Agent",type=string,JSONPath=`.spec.agent`
// +kubebuilder:printcolumn:name="Owner",type=string,JSONPath=`.spec.owner`
// +kubebuilder:printcolumn:name="Credential",type=string,JSONPath=`.spec.credentialID`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.spec.reason`
// +kubebuilder:printcolumn:name="Until",type=string,JSONPath=`.spec.until`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Revocation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a revocation's spec never changes"
	// +kubebuilder:validation:XValidation:rule="has(self.run) || has(self.subject) || has(self.agent) || has(self.owner) || has(self.issuer) || has(self.credentialID)",message="say who is revoked: run, subject, agent, owner, issuer or credentialID"
	Spec RevocationSpec `json:"spec"`
}

// RevocationSpec says who is revoked, and why. An agent is revoked when every
// field that is set, of those that name somebody, is its own; at least one is set.
type RevocationSpec struct {
	// Run is the run's id, as its issuer names it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Run string `json:"run,omitempty"`
	// Issuer is the issuer's name in Tipstaff's configuration, or kubernetes
	// for service accounts of this cluster.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Issuer string `json:"issuer,omitempty"`
	// Subject is the last part of the agent's username: agent:<issuer>:<subject>.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Subject string `json:"subject,omitempty"`
	// Agent is the agent's whole username.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^(agent:[a-z0-9-]+:.+|system:serviceaccount:[^:]+:.+)$`
	Agent string `json:"agent,omitempty"`
	// Owner is the person on whose behalf the run acts.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Owner string `json:"owner,omitempty"`
	// CredentialID names one token, as audit events do: JTI=<its jti claim>.
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^JTI=.+$`
	CredentialID string `json:"credentialID,omitempty"`
	// Reason is told to the run and kept for the record.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason"`
	// Until is when the revocation ends by itself. Unset means never.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`
}

// RevocationList is a list of revocations.
//
// +kubebuilder:object:root=true
type RevocationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Revocation `json:"items"`
}

// Revokes reports whether r revokes a at now. One that names nobody revokes
// nobody: the API server refuses to store it.
func (r *Revocation) Revokes(a Agent, now time.Time) bool {
	if r.Ended(now) {
		return false
	}
	named := false
	for _, f := range [][2]string{
		{r.Spec.Run, a.Run},
		{r.Spec.Issuer, a.Issuer},
		{r.Spec.Subject, a.Subject()},
		{r.Spec.Agent, a.User},
		{r.Spec.Owner, a.Owner},
		{r.Spec.CredentialID, a.CredentialID},
	} {
		if f[0] == "" {
			continue
		}
		if f[0] != f[1] {
			return false
		}
		named = true
	}
	return named
}

// Ended reports whether r's time is over at now.
func (r *Revocation) Ended(now time.Time) bool {
	return r.Spec.Until != nil && !now.Before(r.Spec.Until.Time)
}

package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Labels and annotations on the RoleBindings and ClusterRoleBindings that
// Tipstaff makes. Each carries LabelManagedBy and one of LabelRunKey, LabelGrant.
const (
	LabelManagedBy = "app.kubernetes.io/managed-by" // always ManagedBy
	ManagedBy      = "tipstaff"
	LabelGrant     = "tipstaff.dev/grant" // the Grant's uid

	AnnotationAgent     = "tipstaff.dev/agent"      // the Agent as JSON, without its credential
	AnnotationExpiresAt = "tipstaff.dev/expires-at" // RFC 3339; the binding is removed then
)

// Path is a way by which an agent reaches the API server.
// +kubebuilder:validation:Enum=proxy;direct
type Path string

// The paths.
const (
	// PathProxy is through Tipstaff's proxy, which masks, and only so.
	PathProxy Path = "proxy"
	// PathDirect is both: straight to the API server, unmasked, or through the proxy.
	PathDirect Path = "direct"
)

// Everywhere is the whole cluster, alone in a list of namespaces.
const Everywhere = "*"

// Access is one cluster role in some namespaces.
type Access struct {
	// ClusterRole is the role's name.
	ClusterRole string
	// Namespaces are where it holds; [Everywhere] alone is the whole cluster.
	Namespaces []string
	// Path is the way on which it holds. Empty means PathProxy.
	Path Path
}

// Grant gives an agent more access for some time. One that a person creates
// holds at once. One that an agent creates is held for approval first: it
// exists only when approved.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Role",type=string,JSONPath=`.spec.clusterRole`
// +kubebuilder:printcolumn:name="Namespaces",type=string,JSONPath=`.spec.namespaces`
// +kubebuilder:printcolumn:name="Run",type=string,JSONPath=`.spec.run`
// +kubebuilder:printcolumn:name="Agent",type=string,JSONPath=`.spec.agent`
// +kubebuilder:printcolumn:name="Until",type=string,JSONPath=`.status.expiresAt`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.spec.reason`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Grant struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what is asked for. It never changes.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a grant's spec never changes"
	// +kubebuilder:validation:XValidation:rule="has(self.run) != has(self.agent)",message="a grant is for a run or for an agent: set one of run and agent"
	// +kubebuilder:validation:XValidation:rule="has(self.run) == has(self.issuer)",message="a run is named by its id and its issuer"
	// +kubebuilder:validation:XValidation:rule="!('*' in self.namespaces) || size(self.namespaces) == 1",message="'*' stands alone: it is the whole cluster"
	Spec GrantSpec `json:"spec"`
	// Status is how it stands; Tipstaff alone writes it.
	// +optional
	Status GrantStatus `json:"status,omitempty"`
}

// GrantSpec is who gets which role where, for how long and why.
type GrantSpec struct {
	// Run is the run that gets it.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Run string `json:"run,omitempty"`
	// Issuer is the run's issuer, by its name in Tipstaff's configuration.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Issuer string `json:"issuer,omitempty"`
	// Agent is the username of the agent that gets it, whatever its run.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Agent string `json:"agent,omitempty"`
	// ClusterRole is the role, one of those that Tipstaff's configuration allows.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ClusterRole string `json:"clusterRole"`
	// Namespaces are where it holds, of those that the configuration allows;
	// '*' alone is the whole cluster.
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	Namespaces []string `json:"namespaces"`
	// Path says whether it holds through the proxy only, where secrets are
	// masked, or on the direct path too.
	// +optional
	// +kubebuilder:default=proxy
	Path Path `json:"path,omitempty"`
	// TTL is for how long it holds from its creation on, such as 30m. The
	// configuration bounds it.
	TTL metav1.Duration `json:"ttl"`
	// Reason is why it is needed.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason"`
}

// GrantPhase is where a grant stands.
// +kubebuilder:validation:Enum=Active;Expired;Revoked;Refused
type GrantPhase string

// The phases of a grant.
const (
	GrantActive  GrantPhase = "Active"
	GrantExpired GrantPhase = "Expired" // its time is over: final
	GrantRevoked GrantPhase = "Revoked" // its run or agent is revoked: final
	GrantRefused GrantPhase = "Refused" // the configuration doesn't allow it (any more)
)

// GrantStatus is how a grant stands.
type GrantStatus struct {
	// +optional
	Phase GrantPhase `json:"phase,omitempty"`
	// ExpiresAt is when its bindings go.
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`
	// Message says why it is not active, or what is missing.
	// +optional
	Message string `json:"message,omitempty"`
}

// GrantList is a list of grants.
//
// +kubebuilder:object:root=true
type GrantList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Grant `json:"items"`
}

// ExpiresAt is when g ends: its time to live after its creation.
func (g *Grant) ExpiresAt() time.Time { return g.CreationTimestamp.Add(g.Spec.TTL.Duration) }

// Access is what g gives.
func (g *Grant) Access() Access {
	return Access{ClusterRole: g.Spec.ClusterRole, Namespaces: g.Spec.Namespaces, Path: g.Spec.Path}
}

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Labels on an Approval.
const (
	LabelFingerprint = "tipstaff.dev/fingerprint" // first 40 hex digits of it
	LabelRunKey      = "tipstaff.dev/run-key"
)

// Fingerprint stands for exactly one request: identity, run, operation,
// object, options and content. It is 64 lower-case hex digits (SHA-256).
type Fingerprint string

// Label is the fingerprint as a label value, which Kubernetes caps at 63 characters.
func (f Fingerprint) Label() string { return string(f)[:min(40, len(f))] }

// Approval is one held request of one agent run, and what people decided on it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=apr
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Decision",type=string,JSONPath=`.status.conditions[?(@.type=="Approved")].message`
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.spec.expiresAt`
// +kubebuilder:printcolumn:name="Risk",type=string,JSONPath=`.spec.risk`
// +kubebuilder:printcolumn:name="Action",type=string,JSONPath=`.spec.action`
// +kubebuilder:printcolumn:name="Agent",type=string,JSONPath=`.spec.agent.user`
// +kubebuilder:printcolumn:name="Run",type=string,JSONPath=`.spec.agent.run`
// +kubebuilder:printcolumn:name="Owner",type=string,JSONPath=`.spec.agent.owner`,priority=1
// +kubebuilder:printcolumn:name="Rule",type=string,JSONPath=`.spec.rule`,priority=1
// +kubebuilder:printcolumn:name="Approvers",type=string,JSONPath=`.spec.approvers`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Approval struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what was asked. It never changes.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="an approval's spec never changes"
	Spec ApprovalSpec `json:"spec"`
	// Status is what was decided. Decisions are only added.
	// +optional
	Status ApprovalStatus `json:"status,omitempty"`
}

// ApprovalSpec is what was asked, by whom, and who may decide.
type ApprovalSpec struct {
	// Fingerprint binds the approval to exactly this request.
	// +kubebuilder:validation:Pattern=`^[0-9a-f]{64}$`
	Fingerprint Fingerprint `json:"fingerprint"`
	// Agent is who asked.
	Agent Agent `json:"agent"`
	// Request is what was asked for.
	Request Request `json:"request"`
	// Action is the request in one line: "delete namespace prod".
	// +kubebuilder:validation:MaxLength=1024
	Action string `json:"action"`
	// Diff is the change, masked, as a unified diff of YAML.
	// +optional
	// +kubebuilder:validation:MaxLength=262144
	Diff string `json:"diff,omitempty"`
	// DiffBytes is the whole diff's size; it is larger than Diff where that is cut.
	// +optional
	DiffBytes int64 `json:"diffBytes,omitempty"`
	// Rule is the rule that held the request.
	Rule string `json:"rule"`
	// Risk is the rule's word for how bad it can get.
	// +optional
	Risk Risk `json:"risk,omitempty"`
	// Message is the rule's explanation for the approver.
	// +optional
	Message string `json:"message,omitempty"`
	// Approvers are the groups whose members may decide.
	// +kubebuilder:validation:MinItems=1
	Approvers []string `json:"approvers"`
	// Quorum is how many different people must approve.
	// +kubebuilder:validation:Minimum=1
	Quorum int32 `json:"quorum"`
	// BreakGlass are the groups of which one member alone may approve in an
	// emergency, with a reason. Empty means that nobody may.
	// +optional
	BreakGlass []string `json:"breakGlass,omitempty"`
	// OwnerMayDecide lets the person on whose behalf the run acts decide too.
	// +optional
	OwnerMayDecide bool `json:"ownerMayDecide,omitempty"`
	// ExpiresAt ends the approval, decided or not.
	ExpiresAt metav1.Time `json:"expiresAt"`
}

// Risk is how bad a held change can get.
// +kubebuilder:validation:Enum=low;medium;high;critical
type Risk string

// Request names the request that was held.
type Request struct {
	// Operation is CREATE, UPDATE, DELETE or CONNECT.
	// +kubebuilder:validation:Enum=CREATE;UPDATE;DELETE;CONNECT
	Operation   string `json:"operation"`
	Group       string `json:"group,omitempty"`
	Version     string `json:"version"`
	Resource    string `json:"resource"`
	Subresource string `json:"subresource,omitempty"`
	Namespace   string `json:"namespace,omitempty"`
	Name        string `json:"name,omitempty"`
	// Options are those of the request's options that change what it does, as
	// JSON: propagationPolicy, gracePeriodSeconds, preconditions, force and so on.
	// +kubebuilder:validation:MaxLength=4096
	Options string `json:"options,omitempty"`
}

// Phase is where an approval stands.
// +kubebuilder:validation:Enum=Pending;Approved;Denied;Expired;Used;Cancelled
type Phase string

// The phases.
const (
	PhasePending  Phase = "Pending"
	PhaseApproved Phase = "Approved" // enough people approved; not used yet
	PhaseDenied   Phase = "Denied"   // one approver denied it: final
	PhaseExpired  Phase = "Expired"  // its time ran out undecided or unused: final
	PhaseUsed     Phase = "Used"     // its one request went through: final
	// PhaseCancelled is that of an approval whose run was revoked before it was used: final.
	PhaseCancelled Phase = "Cancelled"
)

// Verdict is one person's decision.
// +kubebuilder:validation:Enum=Approve;Deny
type Verdict string

// The verdicts of people.
const (
	VerdictApprove Verdict = "Approve"
	VerdictDeny    Verdict = "Deny"
)

// ViaKubectl is how a decision came that a person wrote with any Kubernetes client.
const ViaKubectl = "kubectl"

// Decision is one person's word on an approval.
type Decision struct {
	// By is the person's username at the API server.
	// +kubebuilder:validation:MinLength=1
	By string `json:"by"`
	// Verdict is Approve or Deny.
	Verdict Verdict `json:"verdict"`
	// Reason is the person's reason; a denial needs one.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason,omitempty"`
	// At is when it was decided.
	At metav1.Time `json:"at"`
	// Via is the way it came: kubectl, web or slack.
	// +kubebuilder:validation:Enum=kubectl;web;slack
	Via string `json:"via"`
	// BreakGlass marks an approval that one person gave alone, past the quorum.
	// +optional
	BreakGlass bool `json:"breakGlass,omitempty"`
}

// Use is the one request that an approval let through.
type Use struct {
	// RequestUID is the AdmissionReview's uid.
	RequestUID string `json:"requestUID"`
	// At is when it went through.
	At metav1.Time `json:"at"`
	// ObjectUID, ResourceVersion and Generation are those of the old object that
	// the request was judged on; they tell a retry of the same request from a
	// second one. Empty where there is none.
	// +optional
	ObjectUID string `json:"objectUID,omitempty"`
	// +optional
	ResourceVersion string `json:"resourceVersion,omitempty"`
	// +optional
	Generation int64 `json:"generation,omitempty"`
	// Tries is how often the request was let through because the API server had
	// not carried it out before. Zero means once.
	// +optional
	Tries int32 `json:"tries,omitempty"`
	// Outcome is what the API server made of it, once the audit log has told.
	// +optional
	Outcome *Outcome `json:"outcome,omitempty"`
}

// Outcome is how the API server answered a request that an approval let through.
type Outcome struct {
	// Code is the HTTP status. 403, 409, 422 and 429 mean that nothing was changed;
	// then the same request may come again within a short time. 5xx, and other 4xx,
	// mean that it is not known.
	Code int32 `json:"code"`
	// Message is the API server's, masked.
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`
	// At is when it was learnt.
	At metav1.Time `json:"at"`
}

// ApprovalStatus is what was decided. Phase is for people and printer columns;
// Tipstaff itself decides from Decisions, Use and the expiry.
type ApprovalStatus struct {
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Decisions []Decision `json:"decisions,omitempty"`
	// +optional
	Use *Use `json:"use,omitempty"`
	// Cancelled is set when the run that asked was revoked.
	// +optional
	Cancelled *Cancellation `json:"cancelled,omitempty"`
	// Conditions say in Kubernetes' terms where it stands: Approved and Used.
	// They are for people and for kubectl wait; nothing is decided from them.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Condition types of an Approval.
const (
	ConditionApproved = "Approved" // True, False (denied, expired, cancelled) or Unknown (pending)
	ConditionUsed     = "Used"     // True once its request went through
)

// Cancellation ends an approval that nobody has used.
type Cancellation struct {
	// At is when it ended.
	At metav1.Time `json:"at"`
	// Reason is the revocation's.
	// +kubebuilder:validation:MaxLength=1024
	Reason string `json:"reason"`
}

// ApprovalList is a list of approvals.
//
// +kubebuilder:object:root=true
type ApprovalList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Approval `json:"items"`
}

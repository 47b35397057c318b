package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Types of the causes in a refusal's status.details that programs read. The
// message of each is the bare value.
const (
	CauseReason   metav1.CauseType = "tipstaff.dev/reason"   // one of the webhook's reasons
	CauseRule     metav1.CauseType = "tipstaff.dev/rule"     // the rule's name
	CauseApproval metav1.CauseType = "tipstaff.dev/approval" // the approval's name
	CauseState    metav1.CauseType = "tipstaff.dev/state"    // its phase
	CauseFinal    metav1.CauseType = "tipstaff.dev/final"    // yes: the same request can't go through any more; no: it may
)

// Values of CauseReason that more than the webhook reads or writes.
const (
	ReasonHeld    = "Held"    // waits for a decision
	ReasonExpired = "Expired" // its approval ran out while it waited
)

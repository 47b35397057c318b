package v1alpha1

import "errors"

// ErrTooMany means that so many approvals wait for a decision that no further one
// is opened. The request is refused; it can come back when some are decided.
var ErrTooMany = errors.New("too many approvals are pending")

// Try is one request that asks for an approval, as its admission review tells.
//
// +kubebuilder:object:generate=false
type Try struct {
	// RequestUID is the review's uid. The API server draws a new one for each
	// call, also for those within one request.
	RequestUID string
	// ObjectUID, ResourceVersion and Generation are those of the old object;
	// empty where there is none.
	ObjectUID       string
	ResourceVersion string
	Generation      int64
	// Proof is what this request's kind lets us see of an earlier try.
	Proof Proof
}

// Proof says what an old object shows of whether an earlier try of the very
// same request was carried out.
type Proof int

// The proofs. Only requests for one named main resource have one.
const (
	// ProofNone is that of subresources, CREATE, CONNECT and collections.
	ProofNone Proof = iota
	// ProofDelete is that of a DELETE whose old object is not being deleted yet.
	ProofDelete
	// ProofVersion is that of an UPDATE: its resourceVersion.
	ProofVersion
	// ProofGeneration is that of an UPDATE that alters the spec and by that moves
	// the generation: both.
	ProofGeneration
)

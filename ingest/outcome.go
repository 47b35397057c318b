package ingest

import (
	"net/http"
	"regexp"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Outcome is how the API server answered a request that an approval let through.
type Outcome struct {
	// Approval is its name, Use the uid of the review that used it.
	Approval, Use string
	// Code is the HTTP status.
	Code int32
	// Message is the API server's, masked, of at most 1024 characters and none
	// of them a control character.
	Message string
}

// approvalName is what an approval of tipstaff's is called, useUID what the API
// server draws for a review.
var (
	approvalName = regexp.MustCompile(`^[0-9a-f]{10}$`)
	useUID       = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)
)

const maxOutcomeMessage = 1024

// OnOutcome has f called with the outcome of each approved request, once the
// batch it came in is stored. f must not block; false means that it could not
// take the outcome, which is then counted and lost. It is set before Run.
//
// An outcome may let the same request through again, so f must be set only where
// every API server that may post here is the one whose approvals f keeps: which
// cluster an event is from is the path's word, and whoever has a client
// certificate for this listener may post to any path.
func (in *Ingest) OnOutcome(f func(Outcome) bool) { in.outcome = f }

// outcomeOf reads ev, which is masked. False means that it is not about an
// approved request, or says nothing of how that ended.
func outcomeOf(ev *event) (Outcome, bool) {
	note := func(name string) string { return ev.Annotations[v1alpha1.WebhookName+"/"+name] }
	o := Outcome{Approval: note(v1alpha1.AnnotationApproval), Use: note(v1alpha1.AnnotationUse)}
	switch {
	case ev.Stage != "ResponseComplete" && ev.Stage != "Panic", !approvalName.MatchString(o.Approval), !useUID.MatchString(o.Use):
		return Outcome{}, false
	case ev.Verb == "deletecollection":
		// One event for many objects: its code says nothing of any one of them.
		return Outcome{}, false
	}
	var st status
	if len(ev.ResponseStatus) == 0 || json.Unmarshal(ev.ResponseStatus, &st) != nil || st.Code < 100 || st.Code > 599 {
		return Outcome{}, false
	}
	o.Code, o.Message = st.Code, plain(st.Message)
	switch note(v1alpha1.AnnotationVerdict) {
	case "approved":
		return o, true
	case "denied":
		// The use stands, and its request was refused after all, by the webhook
		// itself: whatever the API server made of that, nothing was carried out.
		if st.Code >= http.StatusBadRequest {
			o.Code = http.StatusForbidden
			return o, true
		}
	}
	return Outcome{}, false
}

// plain cuts s to what an approval takes, without control characters.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
	if r := []rune(s); len(r) > maxOutcomeMessage {
		s = string(r[:maxOutcomeMessage-1]) + "…"
	}
	return s
}

// tell passes on what a stored batch says.
func (in *Ingest) tell(outcomes []Outcome) {
	if in.outcome == nil {
		return
	}
	for _, o := range outcomes {
		word := "passed"
		if !in.outcome(o) {
			word = "dropped"
		}
		in.metrics.outcomes.WithLabelValues(word).Inc()
	}
}

package webhook

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Types of the causes in status.details that programs read, as the API names them.
const (
	CauseReason   = v1alpha1.CauseReason
	CauseRule     = v1alpha1.CauseRule
	CauseApproval = v1alpha1.CauseApproval
	CauseState    = v1alpha1.CauseState
	CauseFinal    = v1alpha1.CauseFinal
)

// Values of CauseReason.
const (
	ReasonHeld      = v1alpha1.ReasonHeld
	ReasonDenied    = "Denied" // a person denied it
	ReasonExpired   = v1alpha1.ReasonExpired
	ReasonRule      = "Rule"      // a rule denies it
	ReasonRevoked   = "Revoked"   // the run is revoked
	ReasonNoRun     = "NoRun"     // the identity names no run
	ReasonMask      = "Mask"      // it would write a mask over a real value
	ReasonTooMany   = "TooMany"   // it needs an approval, and too many are pending to open another
	ReasonUnchecked = "Unchecked" // it could not be checked
)

// maxActionLength, in bytes, bounds what an agent wrote and we repeat; the CRD takes 1024.
const maxActionLength = 1000

// action says in a few words what a request does: delete namespace "prod".
func action(req *admissionv1.AdmissionRequest, object, oldObject func() map[string]any) string {
	what := strings.ToLower(req.Kind.Kind)
	if req.SubResource != "" || what == "" {
		what = req.Resource.Resource
		if req.SubResource != "" {
			what += "/" + req.SubResource
		}
	}
	var b strings.Builder
	b.WriteString(strings.ToLower(string(req.Operation)))
	b.WriteString(" " + what)
	if name := nameOf(req, object, oldObject); name != "" {
		b.WriteString(" " + strconv.Quote(name))
	}
	if req.Namespace != "" && req.Resource.Resource != "namespaces" {
		b.WriteString(" in namespace " + strconv.Quote(req.Namespace))
	}
	switch req.SubResource {
	case "scale":
		if n, ok := replicas(object()); ok {
			fmt.Fprintf(&b, " to %d replicas", n)
		}
	case "exec", "attach":
		b.WriteString(command(object()))
	case "portforward":
		b.WriteString(" to any of its ports") // a client names them once it is connected
	}
	if asksForGrant(req) {
		b.WriteString(granted(object()))
	}
	s := visible(b.String())
	if len(s) > maxActionLength {
		s = strings.ToValidUTF8(s[:maxActionLength], "") + "…"
	}
	return s
}

// maxCommand, in bytes, bounds a command in one line; the difference has all of it.
const maxCommand = 256

// command says what a PodExecOptions or PodAttachOptions runs, and in which container.
func command(options map[string]any) string {
	var b strings.Builder
	if container := stringOf(options["container"]); container != "" {
		b.WriteString(", container " + strconv.Quote(container))
	}
	words, _ := options["command"].([]any)
	for i, word := range words {
		if i == 0 {
			b.WriteString(":")
		}
		quoted := strconv.Quote(stringOf(word))
		if b.Len()+len(quoted) > maxCommand {
			b.WriteString(" …")
			break
		}
		b.WriteString(" " + quoted)
	}
	return b.String()
}

// maxNamedNamespaces is how many namespaces of a grant stand in one line; the
// difference has all.
const maxNamedNamespaces = 8

// granted says what a new Grant gives: who gets which role, for how long, on
// which path, where.
func granted(grant map[string]any) string {
	spec, _ := grant["spec"].(map[string]any)
	var b strings.Builder
	fmt.Fprintf(&b, ": role %q", stringOf(spec["clusterRole"]))
	if run := stringOf(spec["run"]); run != "" {
		fmt.Fprintf(&b, " for run %q of issuer %q", run, stringOf(spec["issuer"]))
	}
	if agent := stringOf(spec["agent"]); agent != "" {
		fmt.Fprintf(&b, " for every run of %q", agent)
	}
	ttl := strconv.Quote(stringOf(spec["ttl"]))
	if d, err := time.ParseDuration(stringOf(spec["ttl"])); err == nil {
		ttl = d.String()
	}
	fmt.Fprintf(&b, " for %s, ", ttl)
	switch path := stringOf(spec["path"]); v1alpha1.Path(path) {
	case v1alpha1.PathProxy, "":
		b.WriteString("through the proxy only")
	case v1alpha1.PathDirect:
		b.WriteString("on the direct path, unmasked")
	default:
		fmt.Fprintf(&b, "on path %q", path)
	}
	namespaces, _ := spec["namespaces"].([]any)
	if len(namespaces) == 1 && stringOf(namespaces[0]) == v1alpha1.Everywhere {
		b.WriteString(", in the whole cluster")
		return b.String()
	}
	if len(namespaces) == 1 {
		b.WriteString(", in namespace")
	} else {
		fmt.Fprintf(&b, ", in %d namespaces:", len(namespaces))
	}
	for i, ns := range namespaces {
		if i == maxNamedNamespaces {
			b.WriteString(" …")
			break
		}
		b.WriteString(" " + strconv.Quote(stringOf(ns)))
	}
	return b.String()
}

// nameOf is the object's name where the request has none (deletecollection,
// generateName, where the drawn part is left out).
func nameOf(req *admissionv1.AdmissionRequest, object, oldObject func() map[string]any) string {
	if req.Operation == admissionv1.Create {
		if drawn := drawnName(req, object()); drawn != "" {
			return drawn
		}
	}
	if req.Name != "" {
		return req.Name
	}
	for _, obj := range []map[string]any{oldObject(), object()} {
		meta, _ := obj["metadata"].(map[string]any)
		if name := stringOf(meta["name"]); name != "" {
			return name
		}
	}
	return ""
}

// replicas of a Scale: zero is left out of its JSON (autoscaling/v1, omitempty).
func replicas(scale map[string]any) (int64, bool) {
	if scale == nil {
		return 0, false
	}
	spec, _ := scale["spec"].(map[string]any)
	n, _ := spec["replicas"].(int64)
	return n, true
}

// causes makes the machine-readable half of a refusal; empty values are left out.
func causes(reason, rule string, a *v1alpha1.Approval, final bool) []metav1.StatusCause {
	out := []metav1.StatusCause{{Type: CauseReason, Message: reason}}
	if rule != "" {
		out = append(out, metav1.StatusCause{Type: CauseRule, Message: rule})
	}
	if a != nil {
		out = append(out,
			metav1.StatusCause{Type: CauseApproval, Message: a.Name},
			metav1.StatusCause{Type: CauseState, Message: string(a.Status.Phase)})
	}
	word := "no"
	if final {
		word = "yes"
	}
	return append(out, metav1.StatusCause{Type: CauseFinal, Message: word})
}

// refusal makes an answer that refuses.
func refusal(req *admissionv1.AdmissionRequest, code int32, reason metav1.StatusReason, text string, cs []metav1.StatusCause) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{UID: req.UID, Result: &metav1.Status{
		Status: metav1.StatusFailure, Code: code, Reason: reason, Message: visible(text),
		Details: &metav1.StatusDetails{
			Name: req.Name, Group: req.Resource.Group, Kind: req.Resource.Resource, Causes: cs,
		},
	}}
}

// forbidden is a refusal with 403.
func forbidden(req *admissionv1.AdmissionRequest, text string, cs []metav1.StatusCause) *admissionv1.AdmissionResponse {
	return refusal(req, http.StatusForbidden, metav1.StatusReasonForbidden, text, cs)
}

// unchecked refuses because the answer could not be known (I4). What went wrong
// goes to our log, never to the agent.
func unchecked(req *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	resp := refusal(req, http.StatusInternalServerError, metav1.StatusReasonInternalError,
		"this change could not be checked by tipstaff and is refused. Nothing has changed.",
		causes(ReasonUnchecked, "", nil, false))
	resp.AuditAnnotations = map[string]string{v1alpha1.AnnotationVerdict: "denied", v1alpha1.AnnotationReason: "could not be checked"}
	return resp
}

func heldText(what string, a *v1alpha1.Approval, failed bool) string {
	return fmt.Sprintf("%s is held by rule %q%s: approval %s, decided by %s, open until %s. Nothing has changed.",
		what, a.Spec.Rule, failedText(failed), a.Name, groups(a.Spec.Approvers), clock(a.Spec.ExpiresAt.Time))
}

func failedText(failed bool) string {
	if failed {
		return " (which could not be evaluated on this request and counts as matching)"
	}
	return ""
}

func deniedText(what string, a *v1alpha1.Approval) string {
	by, reason := denial(a)
	return fmt.Sprintf("%s was denied by %s: %s (rule %q, approval %s). Nothing has changed.", what, by, strings.TrimRight(reason, "."), a.Spec.Rule, a.Name)
}

func denial(a *v1alpha1.Approval) (by, reason string) {
	for _, d := range a.Status.Decisions {
		if d.Verdict == v1alpha1.VerdictDeny {
			return d.By, d.Reason
		}
	}
	return "an approver", "no reason given"
}

func expiredText(what string, a *v1alpha1.Approval) string {
	return fmt.Sprintf("%s was held by rule %q, and its approval %s ended at %s without being used. Nothing has changed.",
		what, a.Spec.Rule, a.Name, clock(a.Spec.ExpiresAt.Time))
}

func cancelledText(what string, a *v1alpha1.Approval) string {
	why := ""
	if c := a.Status.Cancelled; c != nil && c.Reason != "" {
		why = ": " + strings.TrimRight(c.Reason, ".")
	}
	return fmt.Sprintf("%s was held by rule %q, and its approval %s is cancelled: the run is revoked%s. Nothing has changed.",
		what, a.Spec.Rule, a.Name, why)
}

func groups(gs []string) string {
	quoted := make([]string, len(gs))
	for i, g := range gs {
		quoted[i] = strconv.Quote(g)
	}
	if len(quoted) == 1 {
		return "group " + quoted[0]
	}
	return "groups " + strings.Join(quoted, ", ")
}

func clock(t time.Time) string { return t.UTC().Format("15:04 UTC") }

// approvers are who approved, in their order.
func approvers(a *v1alpha1.Approval) string {
	var by []string
	for _, d := range a.Status.Decisions {
		if d.Verdict == v1alpha1.VerdictApprove {
			by = append(by, d.By)
		}
	}
	return strings.Join(by, ",")
}

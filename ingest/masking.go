package ingest

import (
	"bytes"
	"encoding/json"
	"errors"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
	"github.com/tipstaff-dev/tipstaff/mask"
)

// Annotations of Tipstaff's own on a stored event.
const (
	annotationTruncated = "audit.k8s.io/truncated"      // set by the API server too
	annotationOmitted   = "ingest.tipstaff.dev/omitted" // the body that could not be read
)

// maxPlainBytes bounds a user agent that is kept as it is.
const maxPlainBytes = 4 << 10

// agentOf gives the agent behind the event: whoever was impersonated, else the user.
// A service account counts as an agent by the same configuration in every
// cluster whose events come here.
// An agent that impersonates somebody else is still the one who acts.
func (e *event) agentOf(agents *clusteragents.Config) (v1alpha1.Agent, bool) {
	u := e.effective()
	if a, ok := agents.AgentOf(u.Username, u.Groups, u.Extra); ok {
		return a, true
	}
	return agents.AgentOf(e.User.Username, e.User.Groups, e.User.Extra)
}

func (e *event) effective() *userInfo {
	if e.ImpersonatedUser != nil {
		return e.ImpersonatedUser
	}
	return &e.User
}

// maskEvent masks everything in ev that can hold a secret. Marks are those of
// the agent's run, so that they join with what the proxy and the approvals
// show; what is no agent's is marked in one scope of all.
func maskEvent(m *mask.Masker, agents *clusteragents.Config, ev *event) {
	agent, _ := ev.agentOf(agents)
	s := m.Scope(agent.Key())
	ref := objectRef{}
	if ev.ObjectRef != nil {
		ref = *ev.ObjectRef
	}
	var omitted bool
	ev.RequestObject, omitted = maskBody(s, ref, ev.RequestObject, true)
	if omitted {
		ev.omit("requestObject")
	}
	ev.ResponseObject, omitted = maskBody(s, ref, ev.ResponseObject, false)
	if omitted {
		ev.omit("responseObject")
	}
	ev.ResponseStatus, omitted = maskStatus(s, ref, ev.ResponseStatus)
	if omitted {
		ev.omit("responseStatus")
	}
	ev.RequestURI = maskURI(ev.RequestURI, ev.ObjectRef, s.String)
	if len(ev.UserAgent) > maxPlainBytes {
		ev.UserAgent = s.String(ev.UserAgent)
	}
}

// leaveOutBodies makes the event small: what was asked, by whom and how it was
// answered stays.
func (e *event) leaveOutBodies() {
	for what, body := range map[string]*jsontext.Value{"requestObject": &e.RequestObject, "responseObject": &e.ResponseObject} {
		if len(*body) > 0 {
			*body = nil
			e.omit(what)
		}
	}
}

func (e *event) omit(what string) {
	if e.Annotations == nil {
		e.Annotations = map[string]string{}
	}
	if had := e.Annotations[annotationOmitted]; had != "" {
		what = had + "," + what
	}
	e.Annotations[annotationOmitted] = what
	e.Annotations[annotationTruncated] = "true"
}

// maskBody masks a request or response body. A body that can't be read, such
// as one that names a member twice, is left out: nothing says which of the two
// the API server took.
func maskBody(s *mask.Scoped, ref objectRef, raw jsontext.Value, request bool) (masked jsontext.Value, omitted bool) {
	if len(raw) == 0 || raw.Kind() == 'n' {
		return nil, false
	}
	v, err := decodeAny(raw)
	if err != nil {
		return nil, true
	}
	about := mask.Ref{Resource: ref.Resource, Subresource: ref.Subresource}
	if obj, ok := v.(map[string]any); ok && request && ref.Resource != "" {
		// What a request says it is, is the client's word. What it is about is
		// the API server's: that decides.
		if kind, had := obj["kind"]; had && (ref.maskedByField() || !ownFields(kind)) {
			delete(obj, "kind")
			v = s.ValueOf(about, obj)
			if named, ok := kind.(string); ok && len(named) <= maxIDBytes {
				obj["kind"] = kind
			}
			return encodeAny(v)
		}
	}
	return encodeAny(s.ValueOf(about, v))
}

// ownFields reports whether an object that calls itself kind has fields of its
// own, which mask's rules name. What wraps others has none there, and no request
// is one: an object that called itself so would go round the rules of what it is.
func ownFields(kind any) bool {
	named, ok := kind.(string)
	return ok && !mask.Wraps(named)
}

// maskedByField reports whether the resource's objects are masked by what they
// are, rather than by what they hold.
func (r *objectRef) maskedByField() bool {
	return r.Resource == "secrets" || r.Resource == "serviceaccounts" && r.Subresource == "token"
}

// maskStatus masks the answer's status and keeps code, reason and message.
func maskStatus(s *mask.Scoped, ref objectRef, raw jsontext.Value) (masked jsontext.Value, omitted bool) {
	if len(raw) == 0 || raw.Kind() == 'n' {
		return nil, false
	}
	v, err := decodeAny(raw)
	obj, ok := v.(map[string]any)
	if err != nil || !ok {
		return nil, true
	}
	obj["kind"], obj["apiVersion"] = "Status", "v1"
	if _, ok := obj["details"].(map[string]any); !ok {
		obj["details"] = map[string]any{}
	}
	if ref.maskedByField() {
		// An error of any wording about a Secret may quote it.
		obj["details"].(map[string]any)["kind"] = "secrets"
	}
	s.Object(obj)
	kept := map[string]any{}
	for _, k := range []string{"code", "reason", "message"} {
		if v, ok := obj[k]; ok {
			kept[k] = v
		}
	}
	masked, omitted = encodeAny(kept)
	if !omitted && json.Unmarshal(masked, &status{}) != nil {
		return nil, true // such as a code that is no number: not the API server's
	}
	return masked, omitted
}

// decodeAny reads a body with its numbers as they stand. Names given twice,
// invalid UTF-8 and too deep a nesting are errors.
func decodeAny(raw jsontext.Value) (any, error) {
	if !raw.IsValid() {
		return nil, errBody
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber() // the only numbers that mask knows how to hide
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, errBody
	}
	return v, nil
}

var errBody = errors.New("the body can't be read")

func encodeAny(v any) (out jsontext.Value, omitted bool) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, true
	}
	return bytes.TrimRight(b.Bytes(), "\n"), false
}

// leafPlain are the members that a quarantined event keeps as they are, where
// they are short: whoever looks for it needs them.
var leafPlain = map[string]bool{"auditID": true, "stage": true, "level": true, "verb": true, "requestReceivedTimestamp": true, "stageTimestamp": true}

// shape gives a quarantined event with every text and number in it replaced by
// its mark, empty when it can't be read at all: nothing in it is where the
// rules expect it, so nothing can be told from a secret.
func shape(s *mask.Scoped, raw jsontext.Value) jsontext.Value {
	v, err := decodeAny(raw)
	if err != nil {
		return nil
	}
	obj, ok := v.(map[string]any)
	if !ok {
		return nil
	}
	for k, e := range obj {
		if text, ok := e.(string); ok && leafPlain[k] && len(text) <= 64 {
			continue
		}
		obj[k] = markLeaves(s, e)
	}
	out, omitted := encodeAny(obj)
	if omitted {
		return nil
	}
	return out
}

func markLeaves(s *mask.Scoped, v any) any {
	switch v := v.(type) {
	case string:
		return s.String(v)
	case json.Number:
		return s.String(v.String())
	case []any:
		for i, e := range v {
			v[i] = markLeaves(s, e)
		}
	case map[string]any:
		for k, e := range v {
			v[k] = markLeaves(s, e)
		}
	}
	return v
}

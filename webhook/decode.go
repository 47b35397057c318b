package webhook

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/admissionreview"
	"github.com/tipstaff-dev/tipstaff/internal/jsontree"
	"github.com/tipstaff-dev/tipstaff/mask"
)

// maxReviewBytes caps one AdmissionReview. The API server takes bodies of at
// most 3 MiB (apiserver v1.37, config.MaxRequestBodyBytes); the binary form
// grows by a third as base64 in JSON. Old and new object and the envelope:
// 4 + 4 + 1 MiB. What is larger is refused.
const maxReviewBytes = 9 << 20

// review is one request of an agent. Its objects are decoded when somebody asks:
// most requests are let through on a few fields of them. It serves one goroutine.
type review struct {
	req   *admissionv1.AdmissionRequest
	agent v1alpha1.Agent

	raw struct{ object, oldObject, options jsontree.Value }
	// What was asked for already.
	decoded struct{ object, oldObject, options map[string]any }
	said    string
}

// open checks the objects in a request.
func open(req *admissionv1.AdmissionRequest, agent v1alpha1.Agent) (*review, error) {
	rev, err := admissionreview.Of(req)
	if err != nil {
		return nil, err
	}
	return openReview(rev, agent)
}

func openReview(rev *admissionreview.Review, agent v1alpha1.Agent) (*review, error) {
	r := &review{req: rev.Request, agent: agent}
	r.raw.object, r.raw.oldObject, r.raw.options = rev.Object, rev.OldObject, rev.Options
	for _, part := range []struct {
		what string
		jsontree.Value
	}{{"object", r.raw.object}, {"oldObject", r.raw.oldObject}, {"options", r.raw.options}} {
		if !part.IsNull() && part.Kind() != '{' {
			return nil, fmt.Errorf("decode %s: not a JSON object", part.what)
		}
	}
	return r, nil
}

// complete refuses a review without what the API server always sends
// (admission/v1, AdmissionRequest): rules would take what isn't there for empty.
func (r *review) complete() error {
	object, oldObject := !r.raw.object.IsNull(), !r.raw.oldObject.IsNull()
	switch op := r.req.Operation; {
	case r.req.Resource.Resource == "":
		return errors.New("the review names no resource")
	case !object && op != admissionv1.Delete:
		return fmt.Errorf("the review of a %s has no object", op)
	case !oldObject && (op == admissionv1.Update || op == admissionv1.Delete):
		return fmt.Errorf("the review of a %s has no oldObject", op)
	}
	return nil
}

// object is the object as the request wants it, nil where it has none. It is
// decoded once: whoever changes it, copies it.
func (r *review) object() map[string]any { return decoded(r.raw.object, &r.decoded.object) }

// oldObject is the object as it stands, as object.
func (r *review) oldObject() map[string]any { return decoded(r.raw.oldObject, &r.decoded.oldObject) }

// options are the request's options, as object.
func (r *review) options() map[string]any { return decoded(r.raw.options, &r.decoded.options) }

func decoded(v jsontree.Value, into *map[string]any) map[string]any {
	if *into == nil {
		*into = v.Object()
	}
	return *into
}

// action says in a few words what the request does.
func (r *review) action() string {
	if r.said == "" {
		r.said = action(r.req, r.object, r.oldObject)
	}
	return r.said
}

// release drops what a waiting request no longer needs: its objects, each up to
// megabytes. What is left of it is who asks for what.
func (r *review) release() {
	*r = review{req: r.req, agent: r.agent, said: r.action()}
	r.req.Object.Raw, r.req.OldObject.Raw, r.req.Options.Raw = nil, nil, nil
}

// mark gives the path of the first mask in the object. Most have none, which
// their text tells.
func (r *review) mark() (path string, found bool) {
	raw := r.raw.object.Raw()
	if !mask.InText(raw) && !mask.Packed(raw) && !hidden(r.raw.object) {
		return "", false
	}
	return mask.ContainsMark(r.object())
}

// hiding are the escapes (RFC 8259, section 7) that stand for what a mask
// consists of, or for what may part one in base64.
var hiding = [][]byte{[]byte(`\u`), []byte(`\/`), []byte(`\n`), []byte(`\r`)}

// hidden reports whether an escape hides a mask from who reads v's text.
// Most escapes are quotes, which can't.
func hidden(v jsontree.Value) bool {
	raw := v.Raw()
	if !slices.ContainsFunc(hiding, func(escape []byte) bool { return bytes.Contains(raw, escape) }) {
		return false
	}
	var all []any
	for s := range v.EscapedStrings() {
		all = append(all, s)
	}
	_, found := mask.ContainsMark(all)
	return found
}

package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/tipstaff-dev/tipstaff/mask"
)

// The media types of bodies (Kubernetes, "API Concepts"; apimachinery, types/patch.go).
const (
	typeJSON      = "application/json"
	typeYAML      = "application/yaml"
	typeProtobuf  = "application/vnd.kubernetes.protobuf"
	typeJSONPatch = "application/json-patch+json"
	typeMerge     = "application/merge-patch+json"
	typeStrategic = "application/strategic-merge-patch+json"
	typeApply     = "application/apply-patch+yaml"
)

// change is a request with a body, on its way in.
type change struct {
	info   *request.RequestInfo
	query  url.Values
	scoped *mask.Scoped
	// audited says that the body is part of an event of the proxy's own.
	audited bool
	// current gets the object as it is now, nil where there is none.
	current func(ctx context.Context) ([]byte, *apierrors.StatusError)
}

func (c *change) ref() mask.Ref {
	return mask.Ref{Resource: c.info.Resource, Subresource: c.info.Subresource}
}

// body gives the body that the API server gets: the client's, with the real
// value in the place of each mark that stands where the object has it (I8). A
// mark anywhere else is refused.
func (c *change) body(ctx context.Context, contentType string, body []byte) (out []byte, outType string, refused *apierrors.StatusError) {
	mt, _, err := mime.ParseMediaType(contentType)
	if contentType == "" {
		mt, err = typeJSON, nil
	}
	if err != nil {
		return nil, "", unsupported("the Content-Type can't be read")
	}
	var v any
	switch mt {
	case typeJSON, typeJSONPatch, typeMerge, typeStrategic:
		// Two readers of a name given twice may see two different objects.
		if v, err = mask.Decode(body); err != nil {
			return nil, "", apierrors.NewBadRequest("the body is no JSON, or it holds a name twice, or text that is no UTF-8")
		}
		c.audit(ctx, body)
	case typeYAML, typeApply:
		asJSON, err := mask.FromYAML(body, true)
		if err == nil {
			v, err = mask.Decode(asJSON)
		}
		if err != nil {
			return nil, "", apierrors.NewBadRequest("the body is no YAML, or it holds a name twice")
		}
		c.audit(ctx, asJSON)
	case typeProtobuf:
		if c.audited {
			if v, err := fromProtobuf(body); err == nil {
				if asJSON, err := mask.Encode(v); err == nil {
					c.audit(ctx, asJSON)
				}
			}
		}
		// A Secret's values are raw bytes there: a mark stands as it is.
		marked := mask.HasMark(string(body))
		if !marked && !mask.Packed(body) {
			return body, contentType, nil
		}
		if v, err = fromProtobuf(body); err != nil {
			if !marked {
				return body, contentType, nil
			}
			return nil, "", markRefused("the body")
		}
	default:
		return nil, "", unsupported("the proxy takes bodies in JSON, YAML or Kubernetes' protobuf")
	}
	out, outType, refused = c.restored(ctx, mt, body, v)
	switch {
	case refused != nil:
		return nil, "", refused
	case out != nil:
		return out, outType, nil
	case mask.HasMark(string(body)):
		return nil, "", markRefused("the body") // where no decoder looks: a comment
	}
	return body, contentType, nil
}

// audit makes body, in JSON and as the client sent it, part of the request's event.
func (c *change) audit(ctx context.Context, body []byte) {
	if c.audited {
		audit.LogRequestPatch(ctx, bytes.Clone(body)) // of any request: it only sets the request's object
	}
}

// restored puts the real values into v, the decoded body. out is nil where the
// body passes as it is.
func (c *change) restored(ctx context.Context, mt string, body []byte, v any) (out []byte, outType string, refused *apierrors.StatusError) {
	where, marked := mask.ContainsMark(v)
	peeks := mt == typeJSONPatch && peeks(v)
	takes := mt == typeApply && c.query.Get("force") != "true"
	if !marked && !peeks && !takes {
		return nil, "", nil
	}
	var raw []byte // stays nil where there is nothing to restore from
	if (c.info.Verb == "update" || c.info.Verb == "patch") && c.info.Name != "" {
		if raw, refused = c.current(ctx); refused != nil {
			return nil, "", refused
		}
	}
	switch {
	case raw == nil && marked:
		return nil, "", markRefused(where)
	case raw == nil:
		return nil, "", nil
	}
	o, err := c.scoped.Originals(c.ref(), raw)
	if err != nil {
		return nil, "", apierrors.NewInternalError(fmt.Errorf("the object as it is now can't be masked: %w", err))
	}
	if !marked && !o.Hides() {
		return nil, "", nil
	}
	if takes {
		if field, found := o.TakesOver(v, c.query.Get("fieldManager")); found {
			return nil, "", takeover(c.info, field)
		}
	}
	if mt == typeJSONPatch {
		return c.patched(o, body, v, marked)
	}
	if !marked {
		return nil, "", nil
	}
	sent := v
	if v, err = copied(v); err != nil {
		return nil, "", apierrors.NewInternalError(errors.New("the body can't be read twice"))
	}
	v = o.Restore(v)
	if refused := settled(o, sent, v); refused != nil {
		return nil, "", refused
	}
	// What was restored holds for this version of the object only.
	v = underVersion(v, o.Version())
	outType = mt
	if mt == typeProtobuf {
		outType = typeJSON
	}
	if mt != typeYAML && mt != typeApply && mt != typeProtobuf {
		if out, same := mask.Rewrite(body, v); same {
			return out, outType, nil
		}
	}
	if out, err = mask.Encode(v); err != nil {
		return nil, "", apierrors.NewInternalError(errors.New("the body can't be written"))
	}
	return out, outType, nil
}

// settled refuses what still holds a mark, and what would show a real value.
func settled(o *mask.Originals, sent, restored any) *apierrors.StatusError {
	if where, left := mask.ContainsMark(restored); left {
		return markRefused(where)
	}
	if where, ok := o.Covers(sent, restored); !ok {
		return uncovered(where)
	}
	return nil
}

func copied(v any) (any, error) {
	raw, err := mask.Encode(v)
	if err != nil {
		return nil, err
	}
	return mask.Decode(raw)
}

// patched is restored for a JSON patch: it is judged by what it makes of the
// object as the client sees it. Where the same patch doesn't make the same of the
// real object, a merge patch goes in its place.
func (c *change) patched(o *mask.Originals, body []byte, v any, marked bool) (out []byte, outType string, refused *apierrors.StatusError) {
	made, err := o.Patch(body)
	if err != nil {
		// As the API server answers (apiserver, endpoints/handlers/patch.go).
		return nil, "", apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	again, err := copied(made)
	if err != nil {
		return nil, "", apierrors.NewInternalError(errors.New("the object can't be read twice"))
	}
	restored, _ := o.Restore(again).(map[string]any)
	if refused := settled(o, made, restored); refused != nil {
		return nil, "", refused
	}
	outType = typeMerge
	if !marked && o.Makes(body, restored) {
		outType, v = typeJSONPatch, underVersion(v, o.Version())
	} else {
		v = underVersion(o.Merge(restored), o.Version())
	}
	if out, err = mask.Encode(v); err != nil {
		return nil, "", apierrors.NewInternalError(errors.New("the body can't be written"))
	}
	return out, outType, nil
}

// harmless are the members of an object's metadata that JSON patches test, and
// which are never masked.
var harmless = map[string]bool{
	"/metadata/resourceVersion": true, "/metadata/uid": true, "/metadata/name": true, "/metadata/namespace": true, "/metadata/generation": true,
}

// peeks reports whether a JSON patch (RFC 6902) may show a masked value, or say
// whether it is a certain one: it compares or copies what it doesn't hold itself,
// or it changes lists by position, where a neighbour may be what says that a
// value is secret.
func peeks(v any) bool {
	ops, _ := v.([]any)
	for _, op := range ops {
		m, ok := op.(map[string]any)
		if !ok {
			continue
		}
		path, _ := m["path"].(string)
		switch m["op"] {
		case "test":
			if !harmless[path] {
				return true
			}
		case "copy", "move":
			if from, _ := m["from"].(string); !harmless[from] {
				return true
			}
		default:
			for part := range strings.SplitSeq(path, "/") {
				if _, err := strconv.Atoi(part); err == nil {
					return true
				}
			}
		}
	}
	return false
}

// underVersion has the API server refuse the change with a conflict when the
// object is another by then.
func underVersion(v any, version string) any {
	if version == "" {
		return v
	}
	switch v := v.(type) {
	case []any:
		return append([]any{map[string]any{"op": "replace", "path": "/metadata/resourceVersion", "value": version}}, v...)
	case map[string]any:
		meta, ok := v["metadata"].(map[string]any)
		if !ok {
			meta = map[string]any{}
			v["metadata"] = meta
		}
		if rv, _ := meta["resourceVersion"].(string); rv == "" {
			meta["resourceVersion"] = version
		}
	}
	return v
}

// takeover is what the API server answers where another manager owns a field
// and the value differs (Kubernetes, "Server-Side Apply", conflicts).
func takeover(info *request.RequestInfo, field string) *apierrors.StatusError {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusConflict, Reason: metav1.StatusReasonConflict,
		Message: fmt.Sprintf("Apply failed with 1 conflict: .%s of %s %q is owned by another manager, and its value is masked. Force the conflict, or leave the field out, or give it the mark that it shows.", field, info.Resource, info.Name),
		Details: &metav1.StatusDetails{Name: info.Name, Group: info.APIGroup, Kind: info.Resource, Causes: []metav1.StatusCause{
			{Type: metav1.CauseTypeFieldManagerConflict, Field: "." + field, Message: "masked value"},
		}},
	}}
}

// fromProtobuf decodes an object of Kubernetes' own API.
func fromProtobuf(body []byte) (any, error) {
	obj, gvk, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(*gvk)
	raw, err := json.Marshal(obj)
	if err != nil {
		return nil, err
	}
	return mask.Decode(raw)
}

// get gets an object from the API server as the agent. nil stands for none.
func (p *Proxy) get(ctx context.Context, rt http.RoundTripper, path string) ([]byte, *apierrors.StatusError) {
	u := *p.upstream
	u.Path = strings.TrimSuffix(u.Path, "/") + path
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, apierrors.NewBadRequest("the path can't be asked for")
	}
	req.Header.Set("Accept", typeJSON)
	resp, err := rt.RoundTrip(req)
	if err != nil {
		if c := cutOf(ctx); c != nil {
			return nil, c.status
		}
		return nil, apierrors.NewServiceUnavailable("the proxy can't get the object as it is now from the API server: try again")
	}
	defer func() { _ = resp.Body.Close() }() // read as far as wanted
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, nil
	case resp.StatusCode != http.StatusOK:
		return nil, &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: int32(resp.StatusCode), //nolint:gosec // three digits
			Message: fmt.Sprintf("to compare what is masked the proxy gets the object as it is now, as you: the API server answered %d. Nothing has changed.", resp.StatusCode),
		}}
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, mask.MaxObjectBytes+1))
	if err != nil || len(raw) > mask.MaxObjectBytes {
		return nil, apierrors.NewServiceUnavailable("the proxy can't read the object as it is now")
	}
	return bytes.TrimSpace(raw), nil
}

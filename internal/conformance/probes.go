package conformance

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Places that no object of the table has.
const (
	placeRejected = "rejected-secret"
	placeToken    = "token-request"
	placeIdentity = "identity"
	placeSelector = "crd-field-selector"
)

// post sends an object as the agent.
func (r *run) post(ctx context.Context, path, body string, header http.Header, http1 bool) (request, answer, error) {
	h := http.Header{"Accept": {"application/json"}}
	for k, v := range header {
		h[k] = v
	}
	q := request{method: http.MethodPost, path: path, header: h, body: body, contentType: "application/json", http1: http1}
	a, err := r.agent.do(ctx, q)
	return q, a, err
}

// rejections are Secrets that no API server takes; its error may quote them.
var rejections = []struct {
	read string
	body func(meta, value string) string
}{
	{"error-data-no-base64", func(meta, v string) string { return `{` + meta + `,"data":{"password":"` + v + `*"}}` }},
	{"error-string-data-of-wrong-type", func(meta, v string) string {
		return `{` + meta + `,"stringData":{"password":{"value":"` + v + `"}}}`
	}},
	{"error-string-data-no-map", func(meta, v string) string { return `{` + meta + `,"stringData":"` + v + `"}` }},
	{"error-docker-config", func(meta, v string) string {
		return `{` + meta + `,"type":"kubernetes.io/dockerconfigjson","stringData":{".dockerconfigjson":"{` + v + `"}}`
	}},
	{"error-value-too-long", func(meta, v string) string {
		return `{` + meta + `,"stringData":{"password":"` + v + strings.Repeat("x", 1<<20) + `"}}`
	}},
}

// provoke sends Secrets that are refused: the error is an answer like any other.
func (r *run) provoke(ctx context.Context, values []credential) error {
	for i, rej := range rejections {
		if !r.wants(placeRejected, rej.read) {
			continue
		}
		meta := `"apiVersion":"v1","kind":"Secret","metadata":{"name":"rejected"}`
		p := objectPath(secrets, r.planter.namespace, "") + "?" + dryRun
		q, a, err := r.post(ctx, p, rej.body(meta, values[i].text), nil, false)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		q.body = "(such a Secret)"
		only := &holder{object: map[string]any{"metadata": map[string]any{"name": "rejected"}}, values: []Value{{placeRejected, []byte(values[i].secret)}}}
		r.judge(rej.read, q, a, err, []int{http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge}, []*holder{only})
	}
	return nil
}

// askForToken asks for a service account's token, which would be an identity
// beside the agent's own.
func (r *run) askForToken(ctx context.Context) error {
	if !r.wanted(placeToken) {
		return nil
	}
	p := objectPath(accounts, r.planter.namespace, tokenAccount) + "/token"
	for _, how := range []struct{ read, query string }{{"token-request", ""}, {"token-request-dry-run", "?dryRun=All"}} {
		q, a, err := r.post(ctx, p+how.query, `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":600}}`, nil, false)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c := Cell{Place: placeToken, Read: how.read, Path: q.path, Result: Skipped}
		var got struct {
			Kind   string `json:"kind"`
			Status struct {
				Token string `json:"token"`
			} `json:"status"`
		}
		switch {
		case err != nil:
			c.Reason = "no answer: " + r.scrub(err.Error())
		case a.code >= http.StatusMultipleChoices || json.Unmarshal(a.body, &got) != nil || got.Kind != "TokenRequest" || got.Status.Token == "":
			c.Reason = r.why(a)
		case holdsToken(a.whole()):
			c.Result, c.Where, c.Form, c.Reproduce = Leak, "status.token", "a service account's token", q.curl()
		default:
			c.Result = OK
		}
		r.add(c)
	}
	return nil
}

// holdsToken reports whether a JWT stands in text: a segment that decodes to an
// object with an algorithm, and two more.
func holdsToken(text []byte) bool {
	for i := 0; ; {
		at := bytes.Index(text[i:], []byte("eyJ"))
		if at < 0 {
			return false
		}
		i += at
		segments := strings.SplitN(string(text[i:]), ".", 4)
		if len(segments) < 3 {
			return false
		}
		var head struct {
			Alg string `json:"alg"`
		}
		b, err := base64.RawURLEncoding.DecodeString(segments[0])
		if err == nil && json.Unmarshal(b, &head) == nil && head.Alg != "" && segments[1] != "" && segments[2] != "" {
			return true
		}
		i += len("eyJ")
	}
}

// claimIdentity tries to be somebody else by headers.
func (r *run) claimIdentity(ctx context.Context) error {
	if !r.wanted(placeIdentity) {
		return nil
	}
	const p = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
	for _, how := range []struct {
		read   string
		header func(name string) http.Header
		http1  bool
	}{
		{"impersonate", func(n string) http.Header { return http.Header{"Impersonate-User": {n}} }, false},
		{"impersonate-http1", func(n string) http.Header { return http.Header{"Impersonate-User": {n}} }, true},
		{"impersonate-lower-case", func(n string) http.Header { return http.Header{"impersonate-user": {n}} }, true},
		{"impersonate-twice", func(n string) http.Header { return http.Header{"Impersonate-User": {n, n}} }, true},
		{"impersonate-group", func(n string) http.Header { return http.Header{"Impersonate-User": {"x"}, "Impersonate-Group": {n}} }, false},
		{"impersonate-group-alone", func(n string) http.Header { return http.Header{"Impersonate-Group": {n}} }, false},
		{"impersonate-extra", func(n string) http.Header {
			return http.Header{"Impersonate-User": {"x"}, "Impersonate-Extra-Run": {n}}
		}, false},
		{"impersonate-uid", func(n string) http.Header { return http.Header{"Impersonate-User": {"x"}, "Impersonate-Uid": {n}} }, false},
		{"impersonate-nominated", func(n string) http.Header {
			return http.Header{"Connection": {"Impersonate-User"}, "Impersonate-User": {n}}
		}, true},
		{"impersonate-underscore", func(n string) http.Header { return http.Header{"Impersonate_User": {n}} }, true},
		{"remote-user", func(n string) http.Header {
			return http.Header{"X-Remote-User": {n}, "X-Remote-Group": {n}, "X-Remote-Extra-Run": {n}}
		}, false},
		{"remote-user-nominated", func(n string) http.Header {
			return http.Header{"Connection": {"X-Remote-User, Authorization"}, "X-Remote-User": {n}}
		}, true},
	} {
		claimed := "conformance:" + random(lower, 12)
		q, a, err := r.post(ctx, p, `{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}`, how.header(claimed), how.http1)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c := Cell{Place: placeIdentity, Read: how.read, Path: q.path, Result: Skipped}
		switch {
		case err != nil:
			c.Reason = "no answer: " + r.scrub(err.Error())
		case a.code < http.StatusMultipleChoices && bytes.Contains(a.body, []byte(claimed)):
			c.Result, c.Where, c.Form, c.Reproduce = Leak, "status.userInfo", "the identity that a header claimed", q.curl()
		case a.code < http.StatusMultipleChoices && bytes.Contains(a.body, []byte(`"userInfo"`)):
			c.Result = OK
		default:
			c.Reason = r.why(a)
		}
		r.add(c)
	}
	return nil
}

// selectByValue asks by a field selector whether a masked field has a value.
func (r *run) selectByValue(ctx context.Context) error {
	for _, h := range r.holders {
		if h.selector == nil || !r.wanted(placeSelector) {
			continue
		}
		var shown [2]bool
		c := Cell{Place: placeSelector, Read: "field-selector", Result: OK}
		for i, value := range []string{"", "a-wrong-guess"} {
			q := request{method: http.MethodGet, header: http.Header{"Accept": {"application/json"}}}
			q.path = objectPath(h.gvr, h.namespace(), "") + "?fieldSelector=" + strings.ReplaceAll(h.selector(value), "=", "%3D")
			a, err := r.agent.do(ctx, q)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			switch {
			case err != nil:
				c.Result, c.Reason = Skipped, "no answer: "+r.scrub(err.Error())
			case a.code != http.StatusOK:
				c.Result, c.Reason = Skipped, r.why(a)
			}
			shown[i] = bytes.Contains(a.body, []byte(h.name()))
		}
		q := request{method: http.MethodGet, header: http.Header{"Accept": {"application/json"}}}
		q.path = objectPath(h.gvr, h.namespace(), "") + "?fieldSelector=" + strings.ReplaceAll(h.selector("GUESS"), "=", "%3D")
		if c.Path = q.path; c.Result == OK && shown[0] && !shown[1] {
			c.Result, c.Form, c.Where, c.Reproduce = Leak, "a right guess is told from a wrong one", "the list's items", q.curl()
		}
		r.add(c)
	}
	return nil
}

// writeBackAll reads objects and replaces them by what was read (I8).
func (r *run) writeBackAll(ctx context.Context) error {
	for _, h := range r.holders {
		if !h.writeBack || len(h.values) == 0 {
			continue
		}
		c, err := r.writeBack(ctx, h)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			c.Result, c.Reason = Skipped, "no answer: "+r.scrub(err.Error())
		}
		for _, v := range h.values {
			c.Place = v.Place
			r.add(c)
		}
	}
	return nil
}

func (r *run) writeBack(ctx context.Context, h *holder) (Cell, error) {
	p := objectPath(h.gvr, h.namespace(), h.name())
	c := Cell{Read: "write-back", Path: p, Result: Skipped}
	before, err := r.planter.get(ctx, h)
	if err != nil {
		return c, err
	}
	a, err := r.agent.do(ctx, request{method: http.MethodGet, path: p, header: http.Header{"Accept": {"application/json"}}})
	if err != nil {
		return c, err
	}
	if a.code != http.StatusOK {
		c.Reason = r.why(a)
		return c, nil
	}
	q := request{method: http.MethodPut, path: p, header: http.Header{"Accept": {"application/json"}}, contentType: "application/json", body: string(a.body)}
	put, putErr := r.agent.do(ctx, q) // without an answer it may have been done
	after, err := r.planter.get(ctx, h)
	if err != nil {
		return c, err
	}
	if at := difference(content(before.Object), content(after.Object), ""); at != "" {
		q.body = "(what GET answered)"
		c.Result, c.Where, c.Form, c.Reproduce = Overwritten, at, "what was read was written over the real value", q.curl()
		return c, nil
	}
	switch {
	case putErr != nil:
		return c, putErr
	case put.code < http.StatusMultipleChoices:
		c.Result = OK
	case namesField(put):
		c.Result, c.Reason = OK, "refused, and nothing changed: "+r.why(put)
	default:
		c.Reason = r.why(put)
	}
	return c, nil
}

// writeElsewhere stores what was read of a ConfigMap's password in another one:
// a mark may neither be stored nor replaced there.
func (r *run) writeElsewhere(ctx context.Context) error {
	for _, h := range r.holders {
		at := slices.IndexFunc(h.values, func(v Value) bool { return v.Place == "configmap-key-password" })
		if at < 0 {
			continue
		}
		c, err := r.copyMark(ctx, h, string(h.values[at].Secret))
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			c.Result, c.Reason = Skipped, "no answer: "+r.scrub(err.Error())
		}
		c.Place = h.values[at].Place
		r.add(c)
	}
	return nil
}

func (r *run) copyMark(ctx context.Context, h *holder, value string) (Cell, error) {
	c := Cell{Read: "write-elsewhere", Path: objectPath(configMaps, h.namespace(), ""), Result: Skipped}
	a, err := r.agent.do(ctx, request{method: http.MethodGet, path: objectPath(h.gvr, h.namespace(), h.name()), header: http.Header{"Accept": {"application/json"}}})
	if err != nil {
		return c, err
	}
	var read struct {
		Data map[string]string `json:"data"`
	}
	if a.code != http.StatusOK || json.Unmarshal(a.body, &read) != nil || read.Data["password"] == "" {
		c.Reason = r.why(a)
		return c, nil
	}
	if read.Data["password"] == value {
		c.Reason = "what was read is not masked"
		return c, nil
	}
	copied := &holder{gvr: configMaps, object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "elsewhere-" + h.name(), "namespace": h.namespace()},
		"data": map[string]any{"colour": read.Data["password"]},
	}}
	q, a, err := r.post(ctx, c.Path, compact(copied.object), nil, false)
	if err != nil {
		return c, err
	}
	if a.code >= http.StatusMultipleChoices {
		if c.Reason = r.why(a); namesField(a) {
			c.Result, c.Reason = OK, "refused: "+c.Reason
		}
		return c, nil
	}
	stored, err := r.planter.get(ctx, copied)
	if err != nil {
		return c, err
	}
	colour, _, _ := unstructured.NestedString(stored.Object, "data", "colour") // what isn't there is no value either
	c.Where, c.Reproduce = "data.colour", q.curl()
	if c.Result, c.Form = Overwritten, "the mark was stored"; colour == value {
		c.Result, c.Form = Leak, "the mark was replaced by the value in another object"
	}
	return c, nil
}

// namesField reports whether a refusal says which field it is about.
func namesField(a answer) bool {
	var st metav1.Status
	return json.Unmarshal(a.body, &st) == nil && st.Details != nil && st.Details.RetryAfterSeconds == 0 && len(st.Details.Causes) > 0
}

// content is what of an object its author wrote. An annotation that is JSON
// counts by what it says.
func content(o map[string]any) map[string]any {
	c := map[string]any{}
	for k, v := range o {
		if k != "metadata" && k != "status" {
			c[k] = v
		}
	}
	meta, _ := o["metadata"].(map[string]any)
	for _, k := range []string{"labels", "finalizers"} {
		if v, ok := meta[k]; ok {
			c["metadata."+k] = v
		}
	}
	if annotations, ok := meta["annotations"].(map[string]any); ok {
		read := map[string]any{}
		for k, v := range annotations {
			var inner any
			if read[k] = v; json.Unmarshal([]byte(text(v)), &inner) == nil {
				read[k] = inner
			}
		}
		c["metadata.annotations"] = read
	}
	return c
}

// difference is the path of the first field that differs; empty if none does.
func difference(a, b any, at string) string {
	if reflect.DeepEqual(a, b) {
		return ""
	}
	am, aok := a.(map[string]any)
	bm, bok := b.(map[string]any)
	if aok && bok {
		for _, k := range sortedKeys(am) {
			if d := difference(am[k], bm[k], at+"."+k); d != "" {
				return d
			}
		}
		for _, k := range sortedKeys(bm) {
			if _, ok := am[k]; !ok {
				return strings.TrimPrefix(at+"."+k, ".")
			}
		}
	}
	as, aok := a.([]any)
	bs, bok := b.([]any)
	if aok && bok && len(as) == len(bs) {
		for i := range as {
			if d := difference(as[i], bs[i], at+"["+strconv.Itoa(i)+"]"); d != "" {
				return d
			}
		}
	}
	return strings.TrimPrefix(at, ".")
}

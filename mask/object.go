package mask

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// lastApplied is where kubectl apply keeps the whole object that it applied.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// Object masks one decoded object in place, by what its kind and apiVersion
// say it is: a single object, a list, a table, or a watch event.
func (s *Scoped) Object(obj map[string]any) { s.object(obj, "", 0) }

// ObjectOf masks a request or response object as an audit event or a review
// holds it: where the object doesn't say what it is (a patch), resource and
// subresource do.
func (s *Scoped) ObjectOf(resource, subresource string, obj map[string]any) {
	s.object(obj, kindOf(resource, subresource), 0)
}

// ValueOf is ObjectOf for any JSON value: a JSON patch (RFC 6902) is a list of
// operations, whose values are masked when they concern a masked kind.
func (s *Scoped) ValueOf(resource, subresource string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		s.ObjectOf(resource, subresource, v)
		return v
	case []any:
		if sensitive(kindOf(resource, subresource)) {
			return s.operations(v)
		}
		return v
	case string:
		if sensitive(kindOf(resource, subresource)) {
			return s.String(v)
		}
	}
	return v
}

// kindOf is the kind that a resource's objects have, where that kind is masked;
// else the resource's own name, which is the kind of nothing.
func kindOf(resource, subresource string) string {
	switch {
	case resource == "secrets":
		return "Secret"
	case resource == "serviceaccounts" && subresource == "token":
		return "TokenRequest"
	}
	return resource
}

func sensitive(kind string) bool { return kind == "Secret" || kind == "TokenRequest" }

// maxDepth bounds the recursion into objects that hold objects. Real ones nest
// twice: a watch event with a table with rows.
const maxDepth = 8

// object masks obj. hint is the kind to assume where obj doesn't say, or where
// its surroundings know better: an item of a SecretList is a Secret whatever it
// calls itself.
func (s *Scoped) object(obj map[string]any, hint string, depth int) {
	kind := text(obj["kind"])
	if depth > maxDepth {
		s.all(obj)
		return
	}
	if sensitive(hint) && kind != "Status" && kind != "Table" && !strings.HasSuffix(kind, "List") && kind != "PartialObjectMetadata" {
		kind = hint
	}
	if kind == "" {
		kind = hint
	}
	// What was applied to a Secret was a Secret, whatever the annotation calls it.
	applied := ""
	if sensitive(kind) {
		applied = kind
	} else if sensitive(hint) {
		applied = hint
	}
	s.metadata(obj, applied, depth)
	switch kind {
	case "Secret":
		s.secret(obj)
	case "TokenRequest":
		if st, ok := obj["status"].(map[string]any); ok {
			s.member(st, "token", s.String)
		}
	case "Status":
		s.status(obj, hint)
	case "":
		// Nothing says what it is: data is masked as if it were a Secret's. The
		// wrappers that have no kind, watch events and table rows, have no data.
		s.secret(obj)
	}
	if items, ok := obj["items"].([]any); ok {
		s.each(items, itemKind(kind, hint), depth)
	}
	if rows, ok := obj["rows"].([]any); ok {
		for i, row := range rows {
			if r, ok := row.(map[string]any); ok {
				s.child(r, "object", hint, depth)
			} else if sensitive(hint) {
				rows[i] = s.deep(row)
			}
		}
	}
	s.child(obj, "object", hint, depth)
}

// itemKind is the kind to assume of a list's items: what the request was about
// where that is masked, else what the list's own kind says.
func itemKind(list, hint string) string {
	if item, ok := strings.CutSuffix(list, "List"); ok && !sensitive(hint) && item != "PartialObjectMetadata" {
		return item
	}
	return hint
}

func (s *Scoped) each(items []any, kind string, depth int) {
	for i, it := range items {
		if o, ok := it.(map[string]any); ok {
			s.object(o, kind, depth+1)
		} else if sensitive(kind) {
			items[i] = s.deep(it)
		}
	}
}

func (s *Scoped) child(obj map[string]any, name, hint string, depth int) {
	if o, ok := obj[name].(map[string]any); ok {
		s.object(o, hint, depth+1)
	} else if v, ok := obj[name]; ok && sensitive(hint) {
		obj[name] = s.deep(v)
	}
}

// secret masks a Secret's values. Anything but the expected shape is masked
// whole: better a mark too many.
func (s *Scoped) secret(obj map[string]any) {
	s.values(obj, "data", s.base64)
	s.values(obj, "stringData", s.String)
}

func (s *Scoped) values(obj map[string]any, field string, mark func(string) string) {
	v, ok := obj[field]
	if !ok || v == nil {
		return
	}
	m, ok := v.(map[string]any)
	if !ok {
		obj[field] = s.deep(v)
		return
	}
	for k, v := range m {
		if str, ok := v.(string); ok {
			m[k] = mark(str)
		} else if v != nil {
			m[k] = s.deep(v)
		}
	}
}

// metadata masks the annotation that holds the object as it was applied. hint
// is the kind of the object that carries it, where that is masked.
func (s *Scoped) metadata(obj map[string]any, hint string, depth int) {
	meta, _ := obj["metadata"].(map[string]any)
	ann, _ := meta["annotations"].(map[string]any)
	applied, ok := ann[lastApplied].(string)
	if !ok || applied == "" {
		return
	}
	inner, err := decode([]byte(applied))
	if err != nil {
		ann[lastApplied] = s.String(applied)
		return
	}
	o, ok := inner.(map[string]any)
	if !ok {
		ann[lastApplied] = s.String(applied)
		return
	}
	s.object(o, hint, depth+1)
	out, err := encode(o)
	if err != nil {
		ann[lastApplied] = s.String(applied)
		return
	}
	ann[lastApplied] = string(out)
}

// quoteless are the reasons whose messages name objects but quote no values.
var quoteless = map[string]bool{
	"NotFound": true, "AlreadyExists": true, "Forbidden": true, "Unauthorized": true,
	"Conflict": true, "Gone": true, "Expired": true, "TooManyRequests": true, "MethodNotAllowed": true,
	"NotAcceptable": true, "UnsupportedMediaType": true, "ServiceUnavailable": true, "Timeout": true, "ServerTimeout": true,
}

// status masks what an error about a Secret may quote. An admission webhook's
// refusal carries no details: then hint, from the request, says what it is about.
func (s *Scoped) status(obj map[string]any, hint string) {
	details, _ := obj["details"].(map[string]any)
	kind := strings.ToLower(text(details["kind"]))
	if kind != "secret" && kind != "secrets" && hint != "Secret" || quoteless[text(obj["reason"])] {
		return
	}
	s.member(obj, "message", s.String)
	causes, _ := details["causes"].([]any)
	for _, c := range causes {
		if c, ok := c.(map[string]any); ok {
			s.member(c, "message", s.String)
		}
	}
}

func (s *Scoped) member(obj map[string]any, name string, mark func(string) string) {
	if v, ok := obj[name].(string); ok {
		obj[name] = mark(v)
	}
}

// operations masks the values of a JSON patch of a masked kind.
func (s *Scoped) operations(ops []any) []any {
	for _, op := range ops {
		if o, ok := op.(map[string]any); ok {
			if v, ok := o["value"]; ok {
				o["value"] = s.deep(v)
			}
		}
	}
	return ops
}

func (s *Scoped) all(obj map[string]any) {
	for k, v := range obj {
		obj[k] = s.deep(v)
	}
}

// deep masks every value below v; names stay.
func (s *Scoped) deep(v any) any {
	switch v := v.(type) {
	case string:
		return s.String(v)
	case json.Number:
		return s.String(v.String())
	case nil:
		return nil
	case []any:
		for i, e := range v {
			v[i] = s.deep(e)
		}
		return v
	case map[string]any:
		s.all(v)
		return v
	}
	// Numbers and booleans, of whatever Go type the decoder gave them.
	b, err := json.Marshal(v)
	if err != nil {
		return s.String("?")
	}
	return s.String(string(b))
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// decode reads one JSON value with its numbers as they stand. A name given
// twice, invalid UTF-8 or anything after the value is an error: two readers
// could see two different objects.
func decode(raw []byte) (any, error) {
	d := jsontext.NewDecoder(bytes.NewReader(raw))
	if _, err := d.ReadValue(); err != nil {
		return nil, err
	}
	if _, err := d.ReadToken(); err != io.EOF { //nolint:errorlint // jsontext returns io.EOF itself
		return nil, errTrailing
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	return v, nil
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

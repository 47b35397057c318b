package mask

import (
	"strings"
)

// reference masks what stands in Secrets and TokenRequests in a decoded object:
// the plain way, which the walker is held against.
type reference struct{ *Scoped }

// nowhere has the place that values have by themselves.
type nowhere struct{}

func (nowhere) place() []byte { return nil }

func (s reference) mark64text(v string) string {
	return string(s.appendSecret64(nil, []byte(v), &owner{of: nowhere{}}))
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

// referenceDepth bounds the recursion into objects that hold objects. Real ones nest
// twice: a watch event with a table with rows.
const referenceDepth = 8

// object masks obj. hint is the kind to assume where obj doesn't say, or where
// its surroundings know better: an item of a SecretList is a Secret whatever it
// calls itself.
func (s reference) object(obj map[string]any, hint string, depth int) {
	kind := text(obj["kind"])
	if depth > referenceDepth {
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
		s.each(items, referenceItem(kind, hint), depth)
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

// referenceItem is the kind to assume of a list's items: what the request was about
// where that is masked, else what the list's own kind says.
func referenceItem(list, hint string) string {
	if item, ok := strings.CutSuffix(list, "List"); ok && !sensitive(hint) && item != "PartialObjectMetadata" {
		return item
	}
	return hint
}

func (s reference) each(items []any, kind string, depth int) {
	for i, it := range items {
		if o, ok := it.(map[string]any); ok {
			s.object(o, kind, depth+1)
		} else if sensitive(kind) {
			items[i] = s.deep(it)
		}
	}
}

func (s reference) child(obj map[string]any, name, hint string, depth int) {
	if o, ok := obj[name].(map[string]any); ok {
		s.object(o, hint, depth+1)
	} else if v, ok := obj[name]; ok && sensitive(hint) {
		obj[name] = s.deep(v)
	}
}

// secret masks a Secret's values. Anything but the expected shape is masked
// whole: better a mark too many.
func (s reference) secret(obj map[string]any) {
	s.values(obj, "data", s.mark64text)
	s.values(obj, "stringData", s.String)
}

func (s reference) values(obj map[string]any, field string, mark func(string) string) {
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
func (s reference) metadata(obj map[string]any, hint string, depth int) {
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

// status masks what an error about a Secret may quote. An admission webhook's
// refusal carries no details: then hint, from the request, says what it is about.
func (s reference) status(obj map[string]any, hint string) {
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

func (s reference) member(obj map[string]any, name string, mark func(string) string) {
	if v, ok := obj[name].(string); ok {
		obj[name] = mark(v)
	}
}

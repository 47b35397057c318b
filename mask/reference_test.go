package mask

import (
	"bytes"
	"slices"
	"strings"
)

// reference masks a decoded object by what stands where, the plain way, which
// the walker is held against: Secrets and the like, fields by path and by name,
// environments, command lines, and what annotations quote. It doesn't look into
// texts: what it leaves may be masked too.
type reference struct{ *Scoped }

// nowhere has the place that values have by themselves.
type nowhere struct{}

func (nowhere) place() []byte { return nil }

func (s reference) mark64text(v string) string {
	return string(s.appendSecret64(nil, []byte(v), &owner{of: nowhere{}}))
}

// referenceFields are those that are masked whole, by kind. Database is the
// test's own.
var referenceFields = map[string][][]string{
	"Secret":                    nil,
	"ConfigMap":                 nil,
	"TokenRequest":              {{"status", "token"}},
	"TokenReview":               {{"spec", "token"}},
	"CertificateSigningRequest": {{"status", "certificate"}},
	"Database":                  {{"spec", "users", "secretWord"}, {"spec", "any", "*", "deep"}},
}

var referenceConfig = Config{Fields: []FieldRule{{Resource: "databases", Kind: "Database", Paths: []string{"spec.users.secretWord", "spec.any.*.deep"}}}}

// kindOf is the kind that a resource's objects have, where that kind is masked;
// else the resource's own name, which is the kind of nothing.
func kindOf(resource, subresource string) string {
	switch {
	case resource == "serviceaccounts" && subresource == "token":
		return "TokenRequest"
	case subresource != "":
		return resource
	}
	switch resource {
	case "secrets":
		return "Secret"
	case "configmaps":
		return "ConfigMap"
	case "tokenreviews":
		return "TokenReview"
	case "certificatesigningrequests":
		return "CertificateSigningRequest"
	case "databases":
		return "Database"
	}
	return resource
}

// sensitive reports whether the kind has rules of its own.
func sensitive(kind string) bool {
	_, ok := referenceFields[kind]
	return ok
}

// referenceDepth bounds the recursion into objects that hold objects. Real ones nest
// twice: a watch event with a table with rows. A quote counts twice.
const referenceDepth = 8

// object masks obj. hint is the kind to assume where obj doesn't say, or where
// its surroundings know better: an item of a SecretList is a Secret whatever it
// calls itself.
func (s reference) object(obj map[string]any, hint string, depth int) {
	kind := text(obj["kind"])
	if depth > referenceDepth {
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
	if kind == "Status" {
		s.status(obj, hint)
		return
	}
	s.rest(obj, applied, kind, depth)
	for _, path := range referenceFields[kind] {
		s.field(obj, path)
	}
	switch kind {
	case "Secret":
		s.secret(obj)
	case "ConfigMap":
		if data, ok := obj["data"].(map[string]any); ok {
			s.named(data)
		}
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
				for k, v := range r {
					if k != "object" && k != "cells" {
						r[k] = s.value(k, v, depth)
					}
				}
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

// rest masks what no rule of the kind concerns.
func (s reference) rest(obj map[string]any, hint, kind string, depth int) {
	for name, v := range obj {
		switch name {
		case "items", "rows":
			if _, ok := v.([]any); ok {
				continue
			}
		case "object":
			continue
		case "metadata":
			if meta, ok := v.(map[string]any); ok {
				for k, v := range meta {
					if notes, ok := v.(map[string]any); ok && k == "annotations" {
						s.notes(notes, hint, depth)
					} else {
						meta[k] = s.value(k, v, depth)
					}
				}
				continue
			}
		case "data", "stringData", "binaryData":
			if kind == "Secret" || kind == "ConfigMap" || kind == "" {
				continue
			}
		}
		obj[name] = s.value(name, v, depth)
	}
}

// field masks whatever stands at path, of each element of a list.
func (s reference) field(v any, path []string) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			s.field(e, path)
		}
	case map[string]any:
		for k, e := range v {
			switch {
			case path[0] != k && path[0] != "*":
			case len(path) == 1:
				v[k] = s.deep(e)
			default:
				s.field(e, path[1:])
			}
		}
	}
}

// named masks what stands under a credential's name.
func (s reference) named(m map[string]any) {
	for k, v := range m {
		switch v := v.(type) {
		case string:
			if s.rules.credential([]byte(k)) && !trivial([]byte(v)) {
				m[k] = s.String(v)
			}
		case map[string]any:
			s.named(v)
		}
	}
}

// value masks by names what stands in any object.
func (s reference) value(name string, v any, depth int) any {
	switch v := v.(type) {
	case string:
		if name != "message" && name != "note" && s.rules.field([]byte(name)) && !trivial([]byte(v)) {
			return s.String(v)
		}
	case map[string]any:
		if name == "annotations" {
			s.notes(v, "", depth)
			return v
		}
		for k, e := range v {
			v[k] = s.value(k, e, depth)
		}
	case []any:
		switch name {
		case "env":
			for _, e := range v {
				s.variable(e, depth)
			}
		case "args", "command":
			s.flags(v, depth)
		case "managedFields":
		default:
			for i, e := range v {
				v[i] = s.value("", e, depth)
			}
		}
	}
	return v
}

func (s reference) variable(v any, depth int) {
	m, ok := v.(map[string]any)
	if !ok {
		return
	}
	for k, e := range m {
		if value, ok := e.(string); ok && k == "value" {
			if s.rules.credential([]byte(text(m["name"]))) && !trivial([]byte(value)) {
				m[k] = s.String(value)
			}
			continue
		}
		m[k] = s.value(k, e, depth)
	}
}

func (s reference) flags(list []any, depth int) {
	flag := false
	for i, e := range list {
		switch e := e.(type) {
		case string:
			if flag && e != "" && e[0] != '-' {
				flag = false
				if !trivial([]byte(e)) {
					list[i] = s.String(e)
				}
				continue
			}
			flag = len(e) > 1 && e[0] == '-' && !strings.ContainsAny(e, "= \n") && s.rules.credential(bytes.TrimLeft([]byte(e), "-"))
		case map[string]any, []any:
			flag = false
			list[i] = s.value("", e, depth)
		}
	}
}

// notes masks annotations: objects that they hold, and credentials by name.
// hint is the kind of the object that carries them, where that is masked.
func (s reference) notes(notes map[string]any, hint string, depth int) {
	for name, v := range notes {
		note, ok := v.(string)
		if !ok {
			continue // texts
		}
		trimmed := strings.TrimSpace(note)
		last := name[strings.LastIndexByte(name, '/')+1:]
		switch {
		case trimmed == "":
		case trimmed[0] == '{' || trimmed[0] == '[':
			inner, err := decode([]byte(trimmed))
			if err != nil {
				continue // part of it may be read nevertheless
			}
			for _, o := range slices.Concat([]any{inner}, list(inner)) {
				if o, ok := o.(map[string]any); ok {
					s.object(o, hint, depth+2)
				}
			}
			if out, err := encode(inner); err == nil {
				notes[name] = string(out)
			}
		case name == lastApplied, s.rules.credential([]byte(last)) && !trivial([]byte(note)):
			notes[name] = s.String(note)
		}
	}
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
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

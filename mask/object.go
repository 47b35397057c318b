package mask

import (
	"bytes"
	"encoding/json"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Object masks one decoded object in place, by what its kind and apiVersion
// say it is: a single object, a list, a table, or a watch event.
func (s *Scoped) Object(obj map[string]any) { s.ObjectOf(Ref{}, obj) }

// ObjectOf masks a request or response object as an audit event or a review
// holds it: where the object doesn't say what it is (a patch), ref does.
func (s *Scoped) ObjectOf(ref Ref, obj map[string]any) {
	masked, err := s.decoded(obj, s.rules.of(ref))
	if err != nil {
		s.all(obj) // it can't be read as the API server's: nothing of it may pass
		return
	}
	if m, ok := masked.(map[string]any); ok {
		adopt(obj, m)
	}
}

// ValueOf is ObjectOf for any JSON value: a JSON patch (RFC 6902) is a list of
// operations, whose values are masked when they concern a masked kind.
func (s *Scoped) ValueOf(ref Ref, v any) any {
	a := s.rules.of(ref)
	switch v := v.(type) {
	case map[string]any:
		s.ObjectOf(ref, v)
		return v
	case []any:
		for _, op := range v {
			if o, ok := op.(map[string]any); ok {
				s.operation(o, a)
			} else if a.sure {
				return s.deep(v)
			}
		}
		return v
	case string:
		if a.sure {
			return s.String(v)
		}
		var scratch []span
		left := budget(freeLooks)
		if out, changed := s.freeText([]byte(v), inConfig, &left, &scratch, &owner{of: new(stray)}); changed {
			return string(out)
		}
	}
	return v
}

// operation masks the value of one operation of a JSON patch.
func (s *Scoped) operation(op map[string]any, a about) {
	v, ok := op["value"]
	if !ok {
		return
	}
	kind := text(at(v, "kind"))
	if a.rules != nil && a.rules.secret || op["path"] == "" && (kind == "" || Wraps(kind)) {
		op["value"] = s.deep(v) // no object of the API server's calls itself so
		return
	}
	// What stands at the path is masked as if it stood in an object.
	var parts []string // none: it is the whole object (RFC 6901 section 5)
	if path, _ := op["path"].(string); path != "" {
		parts = strings.Split(strings.TrimPrefix(path, "/"), "/")
	}
	whole := v
	for i := len(parts) - 1; i >= 0; i-- {
		part := strings.NewReplacer("~1", "/", "~0", "~").Replace(parts[i])
		if part == "-" || strings.Trim(part, "0123456789") == "" && part != "" {
			whole = []any{whole}
		} else {
			whole = map[string]any{part: whole}
		}
	}
	masked, err := s.decoded(whole, a)
	if err != nil {
		op["value"] = s.deep(v)
		return
	}
	for range parts {
		switch m := masked.(type) {
		case map[string]any:
			for _, e := range m {
				masked = e
			}
		case []any:
			if len(m) == 1 {
				masked = m[0]
			}
		}
	}
	op["value"] = masked
}

// decoded masks a decoded value.
func (s *Scoped) decoded(v any, a about) (any, error) {
	raw, err := encode(v)
	if err != nil {
		return nil, err
	}
	left := budget(freeLooks)
	out, err := s.quote(raw, a, 0, &left, nil)
	if err != nil || out == nil {
		return v, err
	}
	return decode(out)
}

// adopt takes over into old what masked has otherwise: what is unchanged keeps
// its Go type.
func adopt(old, masked map[string]any) {
	for k := range old {
		if _, ok := masked[k]; !ok {
			delete(old, k) // a name that was masked
		}
	}
	for k, v := range masked {
		old[k] = adopted(old[k], v)
	}
}

func adopted(old, masked any) any {
	switch m := masked.(type) {
	case map[string]any:
		if o, ok := old.(map[string]any); ok {
			adopt(o, m)
			return o
		}
	case []any:
		if o, ok := old.([]any); ok && len(o) == len(m) {
			for i := range m {
				o[i] = adopted(o[i], m[i])
			}
			return o
		}
	case string:
		if o, ok := old.(string); ok && o == m {
			return o
		}
	default:
		if old != nil {
			return old // numbers, booleans: masked ones are strings
		}
	}
	return masked
}

// quoteless are the reasons whose messages name objects but quote no values.
var quoteless = map[string]bool{
	"NotFound": true, "AlreadyExists": true, "Forbidden": true, "Unauthorized": true,
	"Conflict": true, "Gone": true, "Expired": true, "TooManyRequests": true, "MethodNotAllowed": true,
	"NotAcceptable": true, "UnsupportedMediaType": true, "ServiceUnavailable": true, "Timeout": true, "ServerTimeout": true,
}

// status walks over a Status, which begins at pos: an error may quote the
// object that it is about. An admission webhook's refusal carries no details:
// then the request says what it is about.
func (w *walker) status(pos int, a about) error {
	end := w.end(pos)
	v, err := decode(w.buf[pos:end])
	obj, ok := v.(map[string]any)
	if err != nil || !ok {
		return errSyntax
	}
	details, _ := obj["details"].(map[string]any)
	kind := strings.ToLower(text(details["kind"]))
	secret := kind == "secret" || kind == "secrets" || a.sure && a.rules != nil && (a.rules.secret || a.rules.own)
	w.owner.secret, w.owner.own = false, false // it may quote what was only tried
	mark := func(o map[string]any, name string) {
		v, ok := o[name].(string)
		switch {
		case !ok:
			if o[name] != nil {
				o[name] = w.deep(o[name])
			}
		case secret && !quoteless[text(obj["reason"])]:
			o[name] = w.s.String(v)
		case secret && othersWord(v) > 0:
			at := othersWord(v)
			o[name] = v[:at] + w.s.String(v[at:])
		default:
			o[name] = w.errorText(v, a)
		}
	}
	mark(obj, "message")
	causes, _ := details["causes"].([]any)
	for _, c := range causes {
		if c, ok := c.(map[string]any); ok {
			mark(c, "message")
		}
	}
	out, err := encode(obj)
	if err != nil {
		return errSyntax
	}
	w.replace(pos, end, out)
	return nil
}

// denials stand before what somebody's admission webhook or policy says of an
// object, which may be a value of it (apiserver, admission/plugin/webhook/errors
// and admission/plugin/policy/validating).
var denials = []string{"denied the request: ", "denied request: "}

// othersWord gives where in a refusal the words begin of an admission webhook or
// policy that isn't Tipstaff's, 0 where there are none.
func othersWord(message string) int {
	for _, own := range []string{v1alpha1.WebhookName, v1alpha1.GuardWebhookName} {
		if strings.HasPrefix(message, `admission webhook "`+own+`" `) {
			return 0
		}
	}
	for _, d := range denials {
		if i := strings.Index(message, d); i >= 0 {
			return i + len(d)
		}
	}
	return 0
}

// maxErrors bounds how many values are looked for in one error.
const maxErrors = 100

// quotes stand before a value that an error quotes (apimachinery,
// util/validation/field).
var quotes = []string{"Invalid value: ", "Unsupported value: ", "Duplicate value: ", "Too long: ", "Internal error: "}

// dump is how an error shows an object as Go does, or the difference of two
// (apimachinery, util/diff): nothing tells where it ends.
var dump = regexp.MustCompile(`\n@@ -|(?:[a-z][a-z0-9]*\.[A-Z]\w*|map\[\w[\w.]*\]\S*|\[\][a-z][\w.]*)\{`)

// errorText masks what an error quotes.
func (w *walker) errorText(text string, a about) string {
	var b strings.Builder
	for n := 0; ; n++ {
		at, quote := -1, ""
		for _, q := range quotes {
			if i := strings.Index(text, q); i >= 0 && (at < 0 || i < at) {
				at, quote = i, q
			}
		}
		if at < 0 {
			b.WriteString(w.prose(text))
			return b.String()
		}
		if n == maxErrors {
			b.WriteString(w.s.String(text))
			return b.String()
		}
		at += len(quote)
		b.WriteString(w.prose(text[:at]))
		masked, size := w.quotedValue(text[at:], a)
		b.WriteString(masked)
		text = text[at+size:]
	}
}

// prose masks a text that quotes no whole value, but for a dump.
func (w *walker) prose(text string) string {
	if at := dump.FindStringIndex(text); at != nil {
		return w.prose(text[:at[0]]) + w.s.String(text[at[0]:])
	}
	if out, changed := w.freeText([]byte(text), inProse); changed {
		return string(out)
	}
	return text
}

// quotedValue masks the value that an error's text begins with, and gives how
// long it is there.
func (w *walker) quotedValue(text string, a about) (masked string, n int) {
	if quoted, err := strconv.QuotedPrefix(text); err == nil {
		plain, err := strconv.Unquote(quoted)
		if err != nil || len(plain) == 0 || plain[0] != '{' && plain[0] != '[' {
			return w.prose(quoted), len(quoted)
		}
		if out := w.quotedObject(plain, a); out != plain {
			return strconv.Quote(out), len(quoted)
		}
		return quoted, len(quoted)
	}
	if text == "" || text[0] != '{' && text[0] != '[' {
		return "", 0
	}
	raw, err := jsontext.NewDecoder(strings.NewReader(text)).ReadValue()
	if err != nil {
		return w.s.String(text), len(text)
	}
	return w.quotedObject(string(raw), a), len(raw)
}

// quotedObject masks an object, or a part of one, that an error quotes.
func (w *walker) quotedObject(text string, a about) string {
	out, err := w.s.quote([]byte(text), a, w.quoted+1, &w.left, w)
	if err != nil {
		return w.s.String(text)
	}
	if out != nil {
		text = string(out)
	}
	// A variable of an environment alone is known by its two names.
	if out, changed := w.freeText([]byte(text), inProse); changed {
		return string(out)
	}
	return text
}

func (s *Scoped) all(obj map[string]any) {
	for k, v := range obj {
		obj[k] = s.deep(v)
	}
}

// deep masks every value below v; names stay.
func (s *Scoped) deep(v any) any { return s.deepOf(v, nil) }

func (s *Scoped) deepOf(v any, of placed) any {
	mark := func(v string) any {
		if v == "" || isMark(v) {
			return v
		}
		return string(s.appendValue(nil, []byte(v), of))
	}
	switch v := v.(type) {
	case string:
		return mark(v)
	case json.Number:
		return mark(v.String())
	case nil:
		return nil
	case []any:
		for i, e := range v {
			v[i] = s.deepOf(e, of)
		}
		return v
	case map[string]any:
		for k, e := range v {
			v[k] = s.deepOf(e, of)
		}
		return v
	}
	// Numbers and booleans, of whatever Go type the decoder gave them.
	b, err := json.Marshal(v)
	if err != nil {
		return mark("?")
	}
	return mark(string(b))
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
		return nil, errSyntax
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

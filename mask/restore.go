package mask

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Originals are the real values behind the marks of one object.
type Originals struct {
	s            *Scoped
	real, masked any
}

// Originals gives the real values behind the marks that current, an object that
// ref is about, has in this run.
func (s *Scoped) Originals(ref Ref, current []byte) (*Originals, error) {
	if len(current) > MaxObjectBytes {
		return nil, errTooLarge
	}
	real, err := decode(current)
	if err != nil {
		return nil, errSyntax
	}
	if _, ok := real.(map[string]any); !ok {
		return nil, errNoObject
	}
	masked := real
	left := budget(freeLooks)
	out, err := s.quote(current, s.rules.of(ref), 0, &left)
	if err != nil {
		return nil, err
	}
	if out != nil {
		if masked, err = decode(out); err != nil {
			return nil, errSyntax
		}
	}
	return &Originals{s, real, masked}, nil
}

// Version is the object's resourceVersion: what the values are restored from.
func (o *Originals) Version() string {
	return text(at(o.real, "metadata", "resourceVersion"))
}

// Restore gives v, a decoded object or a patch that looks like one, with the
// real value in the place of each mark that stands where the object has it. A
// mark anywhere else stays. List elements are told by their name, where they
// have one.
func (o *Originals) Restore(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	// What data shows under a key may come back as text.
	if sd, ok := m["stringData"].(map[string]any); ok {
		for k, e := range sd {
			was, isText := at(o.masked, "data", k).(string)
			plain, err := base64.StdEncoding.DecodeString(was)
			if s, ok := e.(string); ok && isText && err == nil && s == string(plain) && isMark(s) {
				if real, err := base64.StdEncoding.DecodeString(text(at(o.real, "data", k))); err == nil {
					sd[k] = string(real)
				}
			}
		}
	}
	// Names hold values there; it is the API server's own anyway.
	if meta, ok := m["metadata"].(map[string]any); ok && meta["managedFields"] != nil && equal(meta["managedFields"], at(o.masked, "metadata", "managedFields")) {
		meta["managedFields"] = at(o.real, "metadata", "managedFields")
	}
	return o.restore(v, o.real, o.masked)
}

// at gives what stands at path in v, nil where nothing does.
func at(v any, path ...string) any {
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

func (o *Originals) restore(v, real, masked any) any {
	switch v := v.(type) {
	case string:
		return o.text(v, real, masked)
	case map[string]any:
		r, _ := real.(map[string]any)
		m, _ := masked.(map[string]any)
		for k, e := range v {
			v[k] = o.restore(e, r[k], m[k])
			if s, ok := v[k].(string); ok && k == lastApplied && HasMark(s) {
				v[k] = o.applied(s)
			}
		}
	case []any:
		r, _ := real.([]any)
		m, _ := masked.([]any)
		for i, e := range v {
			if j := same(e, i, m); j >= 0 && j < len(r) {
				v[i] = o.restore(e, r[j], m[j])
			}
		}
	}
	return v
}

// same gives which element of a list e, the i-th of another, stands for, or -1.
func same(e any, i int, list []any) int {
	if s, ok := e.(string); ok && (i >= len(list) || list[i] != e) && HasMark(s) {
		if j := slices.Index(list, e); j >= 0 {
			return j
		}
	}
	if name := text(at(e, "name")); name != "" {
		return slices.IndexFunc(list, func(e any) bool { return text(at(e, "name")) == name })
	}
	if i < len(list) {
		return i
	}
	return -1
}

func (o *Originals) text(v string, real, masked any) any {
	m, ok := masked.(string)
	if !ok || !HasMark(v) {
		return v
	}
	if v == m {
		return real
	}
	r, ok := real.(string)
	if !ok {
		return v
	}
	for mark, piece := range o.pieces(r, m) {
		v = strings.ReplaceAll(v, mark, piece)
	}
	return v
}

// pieces gives what each mark in masked stands for, which is real with some
// pieces of it masked.
func (o *Originals) pieces(real, masked string) map[string]string {
	found := map[string]string{}
	for {
		i := strings.Index(masked, MarkPrefix)
		if i < 0 || len(masked) < i+markLen || len(real) < i || real[:i] != masked[:i] {
			return found
		}
		mark := masked[i : i+markLen]
		real, masked = real[i:], masked[i+markLen:]
		next := masked
		if j := strings.Index(masked, MarkPrefix); j >= 0 {
			next = masked[:j]
		}
		n := o.piece(real, mark, next, len(next) == len(masked))
		if n < 0 {
			return found
		}
		found[mark] = real[:n]
		real = real[n:]
	}
}

// piece gives how much of real the mark stands for, where next follows it, or -1.
func (o *Originals) piece(real, mark, next string, last bool) int {
	if last {
		if n := len(real) - len(next); n > 0 && real[n:] == next && o.isOf(mark, real[:n]) {
			return n
		}
		return -1
	}
	for n := 1; n <= len(real); n++ {
		i := strings.Index(real[n:], next)
		if i < 0 {
			return -1
		}
		if n += i; o.isOf(mark, real[:n]) {
			return n
		}
	}
	return -1
}

// isOf reports whether mark is one that v may have in a text.
func (o *Originals) isOf(mark, v string) bool {
	for _, key := range [...][]byte{o.s.otherKey, o.s.secretKey, o.s.weakKey} {
		if string(sign(nil, key, nil, []byte(v))) == mark {
			return true
		}
	}
	return false
}

// applied restores the object that an annotation holds as it was applied: what
// it quotes is the object itself.
func (o *Originals) applied(s string) string {
	inner, err := decode([]byte(s))
	obj, ok := inner.(map[string]any)
	if err != nil || !ok {
		return s
	}
	out, err := encode(o.Restore(obj))
	if err != nil {
		return s
	}
	return string(out)
}

// Patch is Restore for the operations of a JSON patch (RFC 6902). An operation
// that would show a masked value elsewhere, or test a guess of it, is an error.
func (o *Originals) Patch(ops []any) error {
	for i, op := range ops {
		m, ok := op.(map[string]any)
		if !ok {
			continue // the API server refuses it
		}
		path := text(m["path"])
		switch text(m["op"]) {
		case "copy", "move":
			if from := text(m["from"]); o.hides(from) {
				return fmt.Errorf("operation %d (%s) takes a masked value from %s", i, text(m["op"]), from)
			}
		case "test":
			if !o.hides(path) {
				continue
			}
			if _, masked := o.point(path); !equal(m["value"], masked) {
				return fmt.Errorf("operation %d tests a masked value at %s", i, path)
			}
			m["value"], _ = o.point(path)
		default:
			real, masked := o.point(path)
			if path == "" {
				m["value"] = o.Restore(m["value"])
			} else if v, ok := m["value"]; ok {
				m["value"] = o.restore(v, real, masked)
			}
		}
	}
	return nil
}

// hides reports whether anything at or below the pointer is masked.
func (o *Originals) hides(pointer string) bool {
	real, masked := o.point(pointer)
	return !equal(real, masked)
}

func equal(a, b any) bool {
	x, errX := encode(a)
	y, errY := encode(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// point gives what stands at a JSON pointer (RFC 6901). Where a list's element
// doesn't exist, nothing does.
func (o *Originals) point(pointer string) (real, masked any) {
	real, masked = o.real, o.masked
	if pointer == "" {
		return real, masked
	}
	for _, part := range strings.Split(strings.TrimPrefix(pointer, "/"), "/") {
		part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		real, masked = step(real, part), step(masked, part)
	}
	return real, masked
}

func step(v any, part string) any {
	switch v := v.(type) {
	case map[string]any:
		return v[part]
	case []any:
		if i, err := strconv.Atoi(part); err == nil && i < 0 && i+len(v) >= 0 {
			return v[i+len(v)] // some implementations count from the end
		} else if err == nil && i >= 0 && i < len(v) {
			return v[i]
		}
	}
	return nil
}

// TakesOver gives the first field of an applied configuration (server-side
// apply) that has another value than a mark where the object has a masked one
// that manager doesn't own. Whether that is a conflict depends on whether the
// two values are equal: the answer would say whether a guess is right.
func (o *Originals) TakesOver(v any, manager string) (field string, found bool) {
	var owned any
	fields, _ := at(o.real, "metadata", "managedFields").([]any)
	for _, f := range fields {
		if text(at(f, "manager")) == manager && text(at(f, "operation")) == "Apply" && text(at(f, "subresource")) == "" {
			owned = at(f, "fieldsV1")
		}
	}
	if sd, ok := at(v, "stringData").(map[string]any); ok {
		for _, k := range slices.Sorted(maps.Keys(sd)) {
			was, err := base64.StdEncoding.DecodeString(text(at(o.masked, "data", k)))
			if err == nil && sd[k] == string(was) {
				continue
			}
			if at(o.real, "data", k) != nil && at(owned, "f:stringData", "f:"+k) == nil && at(owned, "f:data", "f:"+k) == nil {
				return "stringData." + k, true
			}
		}
	}
	return takesOver(v, o.real, o.masked, owned, "")
}

func takesOver(v, real, masked, owned any, path string) (string, bool) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			e := v[k]
			if path == "" && k == "metadata" {
				continue // annotations are compared as texts: what they quote stands elsewhere too
			}
			if f, found := takesOver(e, at(real, k), at(masked, k), at(owned, "f:"+k), join(path, k)); found {
				return f, true
			}
		}
		return "", false
	case []any:
		r, _ := real.([]any)
		m, _ := masked.([]any)
		for i, e := range v {
			j := same(e, i, m)
			if j < 0 || j >= len(r) {
				continue
			}
			var own any
			if name := text(at(e, "name")); name != "" {
				if key, err := encode(map[string]string{"name": name}); err == nil {
					own = at(owned, "k:"+string(key))
				}
			}
			if f, found := takesOver(e, r[j], m[j], own, join(path, "["+strconv.Itoa(i)+"]")); found {
				return f, true
			}
		}
		return "", false
	}
	return path, real != nil && owned == nil && !equal(real, masked) && !equal(v, masked)
}

// Names reports whether the rules mask the field of ref's objects that path
// names: then a selector must not compare it.
func (m *Masker) Names(ref Ref, path []string) bool {
	a := m.rules.of(ref)
	if a.rules == nil {
		return false
	}
	n := a.rules.node
	for _, p := range path {
		if n = n.child([]byte(p)); n == nil {
			return false
		}
		if n.act != actPlain {
			return true
		}
	}
	return true // what is below it is
}

// Rewrite gives body with the texts in it that v, which was restored from it,
// has otherwise, and every other byte as it stands: the API server compares some
// fields byte by byte. ok is false where that doesn't make v.
func Rewrite(body []byte, v any) (out []byte, ok bool) {
	d := jsontext.NewDecoder(bytes.NewReader(body))
	last := 0
	for {
		if d.PeekKind() != '"' {
			if _, err := d.ReadToken(); err != nil {
				break
			}
			continue
		}
		raw, err := d.ReadValue()
		if err != nil {
			return nil, false
		}
		if kind, n := d.StackIndex(d.StackDepth()); kind == '{' && n%2 == 1 {
			continue // a name
		}
		plain, err := jsontext.AppendUnquote(nil, raw)
		if err != nil {
			return nil, false
		}
		real, found := lookup(v, d.StackPointer())
		if s, isText := real.(string); !found || isText && s == string(plain) {
			continue
		}
		text, err := encode(real)
		if err != nil {
			return nil, false
		}
		end := int(d.InputOffset())
		out = append(append(out, body[last:end-len(raw)]...), text...)
		last = end
	}
	out = append(out, body[last:]...)
	again, err := decode(out)
	return out, err == nil && equal(again, v)
}

func lookup(v any, pointer jsontext.Pointer) (any, bool) {
	for part := range pointer.Tokens() {
		switch m := v.(type) {
		case map[string]any:
			e, ok := m[part]
			if !ok {
				return nil, false
			}
			v = e
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(m) {
				return nil, false
			}
			v = m[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// Decode reads a body as Restore takes it: numbers as they stand, no name twice.
func Decode(body []byte) (any, error) { return decode(body) }

// Encode is the opposite of Decode.
func Encode(v any) ([]byte, error) { return encode(v) }

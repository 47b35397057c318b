package mask

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

// Originals are the real values behind the marks of one object. They are for one
// goroutine at a time.
type Originals struct {
	s            *Scoped
	a            about
	real, masked any
	place        []byte // the object's
	record       string // the release that Restore restored last
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
	o := &Originals{s: s, a: s.rules.of(ref), real: real, place: placeOf(ref.Resource, text(at(real, "metadata", "namespace")), text(at(real, "metadata", "name")))}
	if o.masked, err = o.read(real, current); err != nil {
		return nil, err
	}
	return o, nil
}

// read gives v, an object, as the agent reads it. raw is v as JSON.
func (o *Originals) read(v any, raw []byte) (any, error) {
	left := budget(freeLooks)
	out, err := o.s.quote(raw, o.a, 0, &left, nil)
	if err != nil || out == nil {
		return v, err
	}
	if v, err = decode(out); err != nil {
		return nil, errSyntax
	}
	return v, nil
}

// Hides reports whether anything of the object is masked.
func (o *Originals) Hides() bool { return !equal(o.real, o.masked) }

// Version is the object's resourceVersion: what the values are restored from.
func (o *Originals) Version() string {
	return text(at(o.real, "metadata", "resourceVersion"))
}

// Restore gives v, a decoded object or a patch that looks like one, with the
// real value in the place of each mark that stands where the object has it. A
// mark anywhere else stays. List elements are told by their name, where they
// have one.
func (o *Originals) Restore(v any) any {
	o.record = ""
	if data, ok := at(v, "data").(map[string]any); ok && o.s.opens > 0 {
		left := maxReleasesBytes
		if s, ok := data[releaseKey].(string); ok && packs(s, &left) {
			if out, ok := o.release(s, text(at(o.real, "data", releaseKey)), text(at(o.masked, "data", releaseKey))); ok {
				data[releaseKey], o.record = out, out
			}
		}
	}
	return o.object(v)
}

// object is Restore for v, or for an object that v quotes as its own.
func (o *Originals) object(v any) any {
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
		if i < len(list) && text(at(list[i], "name")) == name {
			return i
		}
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
		if n := len(real) - len(next); n > 0 && real[n:] == next && o.s.mayMean(mark, real[:n], o.place) {
			return n
		}
		return -1
	}
	for n := 1; n <= len(real); n++ {
		i := strings.Index(real[n:], next)
		if i < 0 {
			return -1
		}
		if n += i; o.s.mayMean(mark, real[:n], o.place) {
			return n
		}
	}
	return -1
}

// applied restores the object that an annotation holds as it was applied: what
// it quotes is the object itself.
func (o *Originals) applied(s string) string {
	inner, err := decode([]byte(s))
	obj, ok := inner.(map[string]any)
	if err != nil || !ok {
		return s
	}
	out, err := encode(o.object(obj))
	if err != nil {
		return s
	}
	return string(out)
}

// Covers reports whether the agent, reading what Restore made of sent, is shown
// every mark where sent has it. Otherwise a real value would stand where nothing
// masks it: its name, or the text around it, is another now. where is the first
// such place.
func (o *Originals) Covers(sent, restored any) (where string, ok bool) {
	m, isObject := restored.(map[string]any)
	if !isObject {
		return "", false
	}
	// A patch may leave out what says whose its values are; what it says instead
	// is only the client's word.
	m = maps.Clone(m)
	meta, _ := m["metadata"].(map[string]any)
	if meta = maps.Clone(meta); meta == nil {
		meta = map[string]any{}
	}
	m["metadata"] = meta
	for _, of := range [...]struct {
		m    map[string]any
		real any
		name string
	}{{m, o.real, "kind"}, {m, o.real, "apiVersion"}, {meta, at(o.real, "metadata"), "name"}, {meta, at(o.real, "metadata"), "namespace"}} {
		delete(of.m, of.name)
		if v := at(of.real, of.name); v != nil {
			of.m[of.name] = v
		}
	}
	raw, err := encode(m)
	if err != nil {
		return "", false
	}
	again, err := o.read(m, raw)
	if err != nil {
		return "", false
	}
	// A release that was restored is what it was but for its state.
	if data, ok := at(sent, "data").(map[string]any); ok && o.record != "" && at(restored, "data", releaseKey) == o.record {
		data = maps.Clone(data)
		delete(data, releaseKey)
		whole := maps.Clone(sent.(map[string]any)) //nolint:forcetypeassert // it has data
		whole["data"], sent = data, whole
	}
	left := maxReleasesBytes
	return covers(sent, again, &left)
}

// covers reports whether again has at least the marks that sent has, at each place.
func covers(sent, again any, left *int) (where string, ok bool) {
	switch sent := sent.(type) {
	case string:
		text, _ := again.(string)
		// What may be read as an object is compared as one: a mark can be written in
		// more than one way there, and stand in more than one place.
		if v, err := decode([]byte(sent)); err == nil && nests(v) {
			now, err := decode([]byte(text))
			if err != nil {
				_, marked := containsMark(v, left)
				return "", !marked
			}
			return covers(v, now, left)
		}
		if packs(sent, left) {
			return "", false
		}
		for mark, n := range marksIn(sent) {
			if strings.Count(text, mark) < n {
				return "", false
			}
		}
	case []any:
		list, _ := again.([]any)
		for i, e := range sent {
			var now any
			if i < len(list) {
				now = list[i]
			}
			if p, ok := covers(e, now, left); !ok {
				return join(fmt.Sprintf("[%d]", i), p), false
			}
		}
	case map[string]any:
		m, _ := again.(map[string]any)
		for _, k := range slices.Sorted(maps.Keys(sent)) {
			now, there := m[k]
			if !there && HasMark(k) {
				return k, false
			}
			if p, ok := covers(sent[k], now, left); !ok {
				return join(k, p), false
			}
		}
	}
	return "", true
}

func nests(v any) bool {
	switch v.(type) {
	case map[string]any, []any:
		return true
	}
	return false
}

// marksIn counts the marks in a text, by what stands there: as they are, and in base64.
func marksIn(s string) map[string]int {
	found := map[string]int{}
	for _, shape := range [...]struct {
		prefix string
		length int
	}{{MarkPrefix, markLen}, {base64Prefix, base64.StdEncoding.EncodedLen(markLen)}} {
		for rest := s; ; {
			i := strings.Index(rest, shape.prefix)
			if i < 0 {
				break
			}
			rest = rest[i:]
			n := min(len(rest), shape.length)
			found[rest[:n]]++
			rest = rest[n:]
		}
	}
	return found
}

// maxOperations is how many a JSON patch may have (apiserver v0.37,
// endpoints/handlers/patch.go).
const maxOperations = 10_000

// The API server bounds by this, too, what the copies of a patch may add up to
// (apiserver v0.37, server/config.go: JSONPatchMaxCopyBytes). It is the library's
// own setting for the whole process.
func init() { jsonpatch.AccumulatedCopySizeLimit = 3 << 20 }

// PatchError is a JSON patch that can't be applied to the object as its client
// sees it, masked. Its text quotes the patch.
type PatchError struct{ err error }

// Error says what can't be applied.
func (e *PatchError) Error() string { return e.err.Error() }

// Patch judges a JSON patch (RFC 6902) by the object as its client sees it,
// masked: what it tests, copies and moves are marks, and what it makes of the
// object is what a client would send that reads, changes and replaces it. A test
// for a mark passes, one for the real value fails, whatever that is.
//
// made is the object that the patch makes of the masked one, on which Restore and
// Covers decide. The error is a *PatchError.
func (o *Originals) Patch(patch []byte) (made map[string]any, err error) {
	p, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		return nil, &PatchError{errors.New("it is no JSON patch")}
	}
	if len(p) > maxOperations {
		return nil, &PatchError{fmt.Errorf("it has %d operations, more than %d", len(p), maxOperations)}
	}
	masked, err := encode(o.masked)
	if err != nil {
		return nil, &PatchError{errSyntax}
	}
	out, err := apply(p, masked)
	if err != nil {
		return nil, &PatchError{err}
	}
	v, err := decode(out)
	made, ok := v.(map[string]any)
	if err != nil || !ok {
		return nil, &PatchError{errNoObject}
	}
	return made, nil
}

// apply applies p. The library panics at some patches, such as one without a
// value; the API server guards itself in the same way.
func apply(p jsonpatch.Patch, object []byte) (out []byte, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("it can't be applied")
		}
	}()
	return p.Apply(object)
}

// Makes reports whether the patch, which holds no mark, makes of the real object
// just restored.
func (o *Originals) Makes(patch []byte, restored any) bool {
	p, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		return false
	}
	real, err := encode(o.real)
	if err != nil {
		return false
	}
	out, err := apply(p, real)
	if err != nil {
		return false
	}
	v, err := decode(out)
	return err == nil && equal(v, restored)
}

// Merge gives a JSON merge patch (RFC 7386) that makes restored of the real object.
func (o *Originals) Merge(restored map[string]any) map[string]any {
	real, _ := o.real.(map[string]any)
	return merge(real, restored)
}

func merge(from, to map[string]any) map[string]any {
	patch := map[string]any{}
	for k, v := range to {
		was, had := from[k]
		if had && equal(was, v) {
			continue
		}
		if a, ok := was.(map[string]any); ok {
			if b, ok := v.(map[string]any); ok {
				patch[k] = merge(a, b)
				continue
			}
		}
		patch[k] = v
	}
	for k := range from {
		if _, kept := to[k]; !kept {
			patch[k] = nil
		}
	}
	return patch
}

func equal(a, b any) bool {
	x, errX := encode(a)
	y, errY := encode(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
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

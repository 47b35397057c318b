package mask

import (
	"bytes"
	"encoding/base64"
	"hash/maphash"
	"math/bits"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// maxDepth bounds how deep an object may nest. Real ones stay below 100.
const maxDepth = 1000

// maxQuoted bounds how often an object may quote one that quotes one.
const maxQuoted = 4

// lastApplied is where kubectl apply keeps the whole object that it applied.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// edit replaces the bytes from from up to to by those of the walker's new
// texts from with up to end.
type edit struct{ from, to, with, end int }

// walker walks over one value whose index is complete, and notes what must be
// replaced in it. It relies on no order of members.
type walker struct {
	s      *Scoped
	buf    []byte
	blocks []block
	quoted int    // how many texts this one is quoted in
	host   placed // whose text it is quoted in: what it says of itself is anybody's word
	top    about  // what the answer is about
	secret bool   // whether a Secret in it can be one
	stray  stray  // what has no name

	at       int // the block of word
	word     uint64
	depth    int
	owner    owner  // of the object's values
	roots    []int  // the objects around that, the outermost first
	here     []byte // the place of the object, once it has been asked for
	left     budget
	unpacked int // bytes of releases
	room     int // how many bytes may still be made of a release's manifests
	edits    []edit
	texts    []byte // the new texts of the edits

	// Where the name stands that member gave last, quotes included.
	nameFrom, nameTo int

	name, text []byte // scratch: a name and a text without their escapes
	spans      []span
	clean      *memo
}

// memo remembers texts in which nothing was found by a masker's rules: lists and
// watches say the same again and again. They are told by a hash that nobody can
// foresee. It is safe for concurrent use.
type memo struct {
	seed  maphash.Seed
	slots [memoSlots]atomic.Uint64
}

const memoSlots = 1 << 14

// The conditions of a memo. Those of a free text also say where it stands, and
// how many values had been learnt: what is added could be found there.
const (
	saltField   = 1
	saltManaged = 2
	saltFree    = 4
	saltRaw     = 1 << 40 // it is a text's JSON
)

func newMemo() *memo { return &memo{seed: maphash.MakeSeed()} }

// has reports whether nothing was found in text under the conditions that salt
// stands for, and gives the hash by which add says so.
func (m *memo) has(text []byte, salt uint64) (hash uint64, known bool) {
	hash = maphash.Bytes(m.seed, text) ^ salt*0x9e3779b97f4a7c15
	return hash, m.slots[hash%memoSlots].Load() == hash
}

func (m *memo) add(hash uint64) { m.slots[hash%memoSlots].Store(hash) }

// seek has next begin at pos.
func (w *walker) seek(pos int) {
	w.at, w.word = pos/blockBytes, 0
	if w.at < len(w.blocks) { // else pos is the end of all there is
		w.word = w.blocks[w.at].marks & (^uint64(0) << (pos % blockBytes))
	}
}

// next gives the position of the next bracket or quote. The caller knows that
// there is one: the value's end is within the index.
func (w *walker) next() int {
	for w.word == 0 {
		w.at++
		w.word = w.blocks[w.at].marks
	}
	pos := w.at*blockBytes + bits.TrailingZeros64(w.word)
	w.word &= w.word - 1
	return pos
}

// escaped reports whether there may be escapes in the string from p to q.
func (w *walker) escaped(p, q int) bool {
	i, last := p/blockBytes, q/blockBytes
	return (w.blocks[i].slashes|w.blocks[last].slashes != 0 || last > i+1) && w.someEscaped(p, q)
}

func (w *walker) someEscaped(p, q int) bool {
	i, last := p/blockBytes, q/blockBytes
	if i == last {
		s := w.blocks[i].slashes
		return s != 0 && s>>(p%blockBytes)<<(p%blockBytes)<<(63-q%blockBytes) != 0
	}
	some := w.blocks[i].slashes >> (p % blockBytes)
	for i++; i < last; i++ {
		some |= w.blocks[i].slashes
	}
	return some|w.blocks[last].slashes<<(63-q%blockBytes) != 0
}

// skipSpace gives the position of the first byte from pos on that is no white space.
func (w *walker) skipSpace(pos int) int {
	for w.buf[pos] <= ' ' {
		pos++
	}
	return pos
}

// member reads on to the next member of the object that next is in. more is
// false at the object's end.
func (w *walker) member() (name []byte, value int, more bool, err error) {
	p := w.next()
	switch w.buf[p] {
	case '}':
		return nil, 0, false, nil
	case '"':
	default:
		return nil, 0, false, errSyntax
	}
	q := w.next()
	w.nameFrom, w.nameTo = p, q+1
	name = w.buf[p+1 : q]
	if w.escaped(p, q) {
		if w.name, err = jsontext.AppendUnquote(w.name[:0], w.buf[p:q+1]); err != nil {
			return nil, 0, false, errSyntax
		}
		name = w.name
	}
	value = w.skipSpace(q + 1)
	if w.buf[value] != ':' {
		return nil, 0, false, errSyntax
	}
	return name, w.skipSpace(value + 1), true, nil
}

// element reads on to the next element of the list that next is in, if it is a
// string, an object or a list. Others are passed over.
func (w *walker) element() (value int, more bool, err error) {
	p := w.next()
	switch w.buf[p] {
	case ']':
		return 0, false, nil
	case '}':
		return 0, false, errSyntax
	}
	return p, true, nil
}

func (w *walker) enter() error {
	if w.depth++; w.depth > maxDepth {
		return errDepth
	}
	return nil
}

// end gives where the value at pos ends, and has next go on there.
func (w *walker) end(pos int) int {
	switch w.buf[pos] {
	case '"':
		w.seek(pos + 1)
		return w.next() + 1
	case '{', '[':
		c := closing{depth: 1, at: pos / blockBytes, mask: ^uint64(0) << (pos % blockBytes) << 1}
		end := c.find(w.blocks, len(w.blocks))
		w.seek(end)
		return end
	}
	e := pos
	for {
		switch w.buf[e] {
		case ',', '}', ']', ' ', '\t', '\r', '\n', '"', '{', '[', ':': // the last four are found to be out of place next
			w.seek(e)
			return e
		}
		e++
	}
}

// string gives the text of the string at pos, which next is at, without its
// escapes, and where it ends. It is good until the next call.
func (w *walker) string(pos int) (text []byte, end int, err error) {
	w.next()
	q := w.next()
	text = w.buf[pos+1 : q]
	if w.escaped(pos, q) {
		if w.text, err = jsontext.AppendUnquote(w.text[:0], w.buf[pos:q+1]); err != nil && len(w.text) == 0 {
			return nil, 0, errSyntax
		}
		text = w.text
	}
	return text, q + 1, nil
}

// replace puts with in the place of what stands there.
func (w *walker) replace(from, to int, with []byte) {
	at := len(w.texts)
	w.texts = append(w.texts, with...)
	w.edits = append(w.edits, edit{from, to, at, len(w.texts)})
}

// replaceText puts text, as a string, in the place of what stands there.
func (w *walker) replaceText(from, to int, text []byte) {
	at := len(w.texts)
	quoted, err := jsontext.AppendQuote(w.texts, text)
	if err != nil { // text is no UTF-8: what can be read of it goes in
		quoted, _ = jsontext.AppendQuote(w.texts[:at], bytes.ToValidUTF8(text, []byte("\uFFFD"))) // never fails on UTF-8
	}
	w.texts = quoted
	w.edits = append(w.edits, edit{from, to, at, len(w.texts)})
}

// replaceMark puts the mark that make appends in the place of what stands there.
func (w *walker) replaceMark(from, to int, text []byte, appendMark func(dst, v []byte, of *owner) []byte) {
	at := len(w.texts)
	w.texts = append(w.texts, '"')
	w.texts = append(appendMark(w.texts, text, &w.owner), '"')
	w.edits = append(w.edits, edit{from, to, at, len(w.texts)})
}

// root walks over a Kubernetes object, which begins at pos.
func (w *walker) root(pos int, a about) error {
	if err := w.enter(); err != nil {
		return err
	}
	rules, _ := w.s.rules.named(a, "")
	kind, touched, from := "", false, len(w.edits)
	outer := w.owner
	defer func() {
		w.depth--
		w.roots, w.here, w.owner = w.roots[:len(w.roots)-1], nil, outer
	}()
	w.roots, w.here, w.owner = append(w.roots, pos), nil, w.ownerOf(rules)
	w.seek(pos + 1)
	for {
		name, value, more, err := w.member()
		if err != nil || !more {
			return err
		}
		if string(name) == "kind" && w.buf[value] == '"' {
			text, _, err := w.string(value)
			if err != nil {
				return err
			}
			if string(text) == kind {
				continue
			}
			if kind != "" { // two kinds: it is every kind
				w.edits = w.edits[:from]
				return w.whole(pos)
			}
			kind = string(text)
			if kind == "Status" {
				w.edits = w.edits[:from]
				return w.status(pos, a)
			}
			now, both := w.s.rules.named(a, kind)
			if both {
				w.edits = w.edits[:from]
				return w.whole(pos)
			}
			if now == rules && !Wraps(kind) {
				continue
			}
			w.owner = w.ownerOf(now)
			if touched {
				// What stood before was taken for something else.
				w.edits = w.edits[:from]
				touched = false
				w.seek(pos + 1)
			}
			rules = now
			continue
		}
		touched = touched || string(name) != "apiVersion"
		if err := w.rootMember(name, value, kind, a, rules); err != nil {
			return err
		}
	}
}

// ownerOf is the owner of the values of an object with these rules.
func (w *walker) ownerOf(rules *kindRules) owner {
	o := owner{of: w, room: maxObjectsValues}
	if rules != nil {
		o.secret = rules == secretRules && w.secret
		o.own = rules.secret || rules.own
	}
	return o
}

// place says which object's values are walked over: the outermost one's that
// has a name, and where it is quoted, the one's that quotes it. So an agent's
// object can't call a part of itself by another one's name.
func (w *walker) place() []byte {
	if w.host != nil {
		return w.host.place()
	}
	for i := 0; w.here == nil && i < len(w.roots); i++ {
		w.here = w.placeAt(w.roots[i])
	}
	if w.here == nil {
		w.here = w.stray.place()
	}
	return w.here
}

// placeAt gives the place that the object at pos says it is, or nil.
func (w *walker) placeAt(pos int) []byte {
	look := walker{buf: w.buf, blocks: w.blocks}
	var of names
	of.resource = append(of.resource, w.top.resource...)
	if err := look.names(pos, &of); err != nil || len(of.name) == 0 {
		return nil // of an error the walk says so too
	}
	return placeOf(string(of.resource), string(of.namespace), string(of.name))
}

// names are what an object says it is.
type names struct{ resource, namespace, name []byte }

// names reads what the object at pos says it is: its resource where the answer
// doesn't. Of what it says twice the first counts.
func (w *walker) names(pos int, of *names) error {
	kind, metadata := len(of.resource) > 0, false
	w.seek(pos + 1)
	for !kind || !metadata {
		name, value, more, err := w.member()
		if err != nil || !more {
			return err
		}
		switch {
		case string(name) == "kind" && !kind && w.buf[value] == '"':
			text, _, err := w.string(value)
			if err != nil {
				return err
			}
			kind, of.resource = true, append(of.resource, resourceOf(string(text))...)
		case string(name) == "metadata" && !metadata && w.buf[value] == '{':
			metadata = true
			if err := w.namesIn(value, of); err != nil {
				return err
			}
		default:
			w.end(value)
		}
	}
	return nil
}

// namesIn reads the names in the metadata at pos.
func (w *walker) namesIn(pos int, of *names) error {
	end := w.end(pos)
	w.seek(pos + 1)
	named, spaced := false, false
	for !named || !spaced {
		name, value, more, err := w.member()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		into, told := (*[]byte)(nil), (*bool)(nil)
		switch string(name) {
		case "name":
			into, told = &of.name, &named
		case "namespace":
			into, told = &of.namespace, &spaced
		}
		if into == nil || *told || w.buf[value] != '"' {
			w.end(value)
			continue
		}
		text, _, err := w.string(value)
		if err != nil {
			return err
		}
		*told, *into = true, append(*into, text...)
	}
	w.seek(end)
	return nil
}

// placeOf names an object. nil is what has no name. Objects of one name whose
// resources are called alike in two API groups have the same.
func placeOf(resource, namespace, name string) []byte {
	if name == "" {
		return nil
	}
	return []byte(resource + "\x00" + namespace + "/" + name)
}

// resourceOf guesses a kind's resource, as apimachinery does (api/meta).
func resourceOf(kind string) string {
	r := strings.ToLower(kind)
	switch {
	case strings.HasSuffix(r, "s"), strings.HasSuffix(r, "x"), strings.HasSuffix(r, "ch"):
		return r + "es"
	case strings.HasSuffix(r, "y"):
		return strings.TrimSuffix(r, "y") + "ies"
	}
	return r + "s"
}

func (w *walker) rootMember(name []byte, value int, kind string, a about, rules *kindRules) error {
	switch string(name) {
	case "items":
		if w.buf[value] == '[' {
			return w.each(value, func(at int) error { return w.object(at, w.s.rules.item(a, kind)) })
		}
	case "rows":
		if w.buf[value] == '[' {
			return w.each(value, func(at int) error { return w.row(at, a) })
		}
	case "object":
		return w.object(value, a)
	case "metadata":
		if w.buf[value] == '{' {
			return w.metadata(value, a, rules)
		}
	}
	var n *node
	if rules != nil {
		n = rules.node.child(name)
	}
	return w.value(name, value, n)
}

// object walks over what should be an object.
func (w *walker) object(pos int, a about) error {
	if w.buf[pos] == '{' {
		return w.root(pos, a)
	}
	if a.sure {
		return w.mark(pos, false)
	}
	return w.value(nil, pos, nil)
}

// each calls f for each element of the list at pos that is a string, an object
// or a list. f must leave next behind it.
func (w *walker) each(pos int, f func(at int) error) error {
	if err := w.enter(); err != nil {
		return err
	}
	defer func() { w.depth-- }()
	w.seek(pos + 1)
	for {
		at, more, err := w.element()
		if err != nil || !more {
			return err
		}
		w.seek(at)
		if err := f(at); err != nil {
			return err
		}
	}
}

// row walks over a row of a table.
func (w *walker) row(pos int, a about) error {
	if w.buf[pos] != '{' {
		return w.object(pos, a)
	}
	if err := w.enter(); err != nil {
		return err
	}
	defer func() { w.depth-- }()
	w.seek(pos + 1)
	for {
		name, value, more, err := w.member()
		if err != nil || !more {
			return err
		}
		switch string(name) {
		case "object":
			err = w.object(value, a)
		case "cells":
			if a.rules != nil && a.rules.own {
				err = w.value(nil, value, leaf(actStrings))
			} else {
				err = w.value(nil, value, leaf(actCells))
			}
		default:
			err = w.value(name, value, nil)
		}
		if err != nil {
			return err
		}
	}
}

// metadata walks over an object's metadata. What annotations quote was of the
// object's own kind.
func (w *walker) metadata(pos int, a about, rules *kindRules) error {
	if err := w.enter(); err != nil {
		return err
	}
	defer func() { w.depth-- }()
	w.seek(pos + 1)
	quotes := about{}
	if rules != nil && rules != unknownRules {
		quotes = about{rules: rules, known: true, sure: true}
	}
	if a.sure {
		quotes = a
	}
	for {
		name, value, more, err := w.member()
		if err != nil || !more {
			return err
		}
		if string(name) == "annotations" && w.buf[value] == '{' {
			err = w.annotations(value, quotes)
		} else if string(name) == "managedFields" && w.s.tried {
			w.replace(value, w.end(value), emptyList)
		} else {
			err = w.value(name, value, nil)
		}
		if err != nil {
			return err
		}
	}
}

// value walks over the value at pos, a member called name (nil: an element). n
// is what the rules say of it.
func (w *walker) value(name []byte, pos int, n *node) error {
	act := actPlain
	if n != nil {
		act = n.act
	}
	switch w.buf[pos] {
	case '{':
		if n == nil || act == actPlain && n.kids == nil && n.any == nil {
			if len(name) == 11 && string(name) == "annotations" {
				return w.annotations(pos, about{})
			}
			if n == nil && w.shallow(name) && w.flat(pos) {
				return nil
			}
		}
		return w.members(pos, n, act)
	case '[':
		if act == actPlain && n == nil {
			switch string(name) {
			case "env":
				return w.each(pos, w.env)
			case "args", "command":
				return w.args(pos)
			case "managedFields":
				if w.plainManaged(pos) {
					return nil
				}
				w.seek(pos)
				act = actManaged
			default:
				if w.shallow(name) && w.flat(pos) {
					return nil
				}
			}
		}
		return w.elements(pos, n, act)
	case '"':
		if act == actPlain {
			act = w.ofName(name)
		}
		return w.leaf(pos, act)
	}
	switch act {
	case actMark, actMark64, actStrings:
		return w.mark(pos, act == actMark64)
	}
	return nil // numbers, true, false and null hold no brackets or quotes
}

// shallow reports whether what stands under a name is worth a flat look: under
// these there mostly is something to be looked at more closely.
func (w *walker) shallow(name []byte) bool {
	switch string(name) {
	case "", "spec", "template", "containers", "initContainers", "metadata", "jobTemplate", "object", "items":
		return false
	}
	return true
}

// flat passes over the object or list at pos, of which no rule says anything, if
// nothing in it is looked at for more than its length, its name and the bytes
// that formats begin with. That is most of all there is, and several times
// faster than to go through it member by member. Where it reports false, next
// may be anywhere.
func (w *walker) flat(pos int) bool {
	named := len(w.s.rules.names) > 0
	lists, depth := uint64(0), 1 // a bit for each bracket that is open, the innermost lowest
	value := false               // the next text is that of the name before it
	if w.buf[pos] == '[' {
		lists = 1
	}
	w.seek(pos + 1)
	for {
		p := w.next()
		switch b := w.buf[p]; b {
		case '"':
		case '{', '[':
			if depth++; depth > 64 || w.depth+depth > maxDepth {
				return false
			}
			lists <<= 1
			if b == '[' {
				lists |= 1
			}
			continue
		default:
			if (b == ']') != (lists&1 == 1) {
				return false
			}
			lists >>= 1
			if depth--; depth == 0 {
				return true
			}
			continue
		}
		q := w.next()
		if w.escaped(p, q) {
			return false
		}
		text := w.buf[p+1 : q]
		after := w.skipSpace(q + 1)
		if w.buf[after] != ':' {
			if lists&1 == 0 && !value { // a name without a value
				return false
			}
			value = false
			if len(text) >= minFormat && w.may(text) {
				return false
			}
			continue
		}
		if lists&1 == 1 {
			return false // it is no JSON
		}
		n, begins := len(text), w.buf[w.skipSpace(after+1)]
		if (named || n >= 3 && nameEnds.has(uint32(text[n-2]|0x20)<<7|uint32(text[n-1]|0x20)&0x7f)) && w.matters(text, begins) {
			return false
		}
		value = begins == '"'
	}
}

// nameEnds are the last two letters of the names that matter.
var nameEnds = func() (ends bitset) {
	for _, e := range [...]string{"ns", "nv", "gs", "nd", "ds", "ge", "te", "rd", "wd", "se", "en", "et", "ey"} {
		ends.set(uint32(e[0])<<7 | uint32(e[1]))
	}
	return ends
}()

// matters reports whether value does something about what stands under name,
// which begins with b.
func (w *walker) matters(name []byte, b byte) bool {
	switch b {
	case '{':
		return string(name) == "annotations"
	case '[':
		switch string(name) {
		case "env", "args", "command", "managedFields":
			return true
		}
		return false
	case '"':
		return w.ofName(name) != actPlain
	}
	return false
}

// ofName is what the name of a text says, where no rule says more.
func (w *walker) ofName(name []byte) action {
	switch string(name) {
	case "message", "note":
		return actFree
	}
	if w.s.rules.field(name) {
		return actField
	}
	return actPlain
}

// members walks over the object at pos.
func (w *walker) members(pos int, n *node, act action) error {
	switch act {
	case actMark, actMark64:
		return w.mark(pos, act == actMark64)
	}
	if err := w.enter(); err != nil {
		return err
	}
	defer func() { w.depth-- }()
	w.seek(pos + 1)
	for {
		name, value, more, err := w.member()
		if err != nil || !more {
			return err
		}
		if n != nil && act != actPlain {
			if k := n.kids[string(name)]; k != nil {
				if err := w.value(name, value, k); err != nil {
					return err
				}
				continue
			}
		}
		switch act {
		case actValues, actValues64:
			if act == actValues64 && string(name) == releaseKey {
				if done, err := w.release(value); done || err != nil {
					if err != nil {
						return err
					}
					continue
				}
			}
			w.owner.public = publicKey(name)
			err = w.mark(value, act == actValues64)
			w.owner.public = false
		case actNamed, actNamed64:
			err = w.named(name, value, act == actNamed64)
		case actManaged:
			w.managed(name)
			err = w.value(nil, value, leafManaged)
		case actFree, actCells, actStrings:
			err = w.value(nil, value, n)
		default:
			err = w.value(name, value, n.child(name))
		}
		if err != nil {
			return err
		}
	}
}

var leafManaged = leaf(actManaged)

// elements walks over the list at pos. What the rules say of a list they say of
// its elements.
func (w *walker) elements(pos int, n *node, act action) error {
	switch act {
	case actMark, actMark64, actValues, actValues64:
		return w.mark(pos, act == actMark64 || act == actValues64)
	case actManaged:
		n = leafManaged
	case actStrings:
		return w.cells(pos)
	}
	if err := w.enter(); err != nil {
		return err
	}
	defer func() { w.depth-- }()
	w.seek(pos + 1)
	for {
		at, more, err := w.element()
		if err != nil || !more {
			return err
		}
		w.seek(at)
		if err := w.value(nil, at, n); err != nil {
			return err
		}
	}
}

// cells masks the cells at pos but for the first, which is the name.
func (w *walker) cells(pos int) error {
	end := w.end(pos)
	v, err := decode(w.buf[pos:end])
	list, ok := v.([]any)
	if err != nil || !ok {
		return errSyntax
	}
	for i := range list {
		if i > 0 {
			list[i] = w.deep(list[i])
		}
	}
	out, err := encode(list)
	if err != nil {
		return errSyntax
	}
	w.replace(pos, end, out)
	return nil
}

// deep masks every value below v, which is the object's; names stay.
func (w *walker) deep(v any) any { return w.s.deepOf(v, w) }

// leaf masks the string at pos.
func (w *walker) leaf(pos int, act action) error {
	switch act {
	case actField:
		text, end, err := w.string(pos)
		if err != nil {
			return err
		}
		if !trivial(text) {
			w.replaceMark(pos, end, text, w.s.appendOther)
		}
		return nil
	case actMark, actStrings:
		return w.mark(pos, false)
	case actMark64, actValues64, actNamed64:
		return w.mark(pos, true)
	case actValues:
		return w.mark(pos, false)
	case actFree, actCells:
		return w.free(pos, inProse)
	case actNamed, actArgs, actEnv, actNotes:
		return w.free(pos, inConfig)
	}
	// Most strings end here.
	w.next()
	q := w.next()
	if q-pos <= minFormat {
		return nil
	}
	text := w.buf[pos+1 : q]
	if !w.escaped(pos, q) && !w.may(text) {
		return nil
	}
	w.seek(pos)
	if len(text) >= longText {
		return w.free(pos, inConfig)
	}
	return w.free(pos, inField)
}

// may reports whether a field's text, which is no short one, may hold a
// credential. It errs on the safe side.
func (w *walker) may(text []byte) bool {
	hash, plain := w.clean.has(text, saltField)
	if plain {
		return false
	}
	if w.s.detect.mayFormat(text) || len(text) >= longText && w.s.detect.mayText(text) {
		return true
	}
	w.clean.add(hash)
	return false
}

// free masks what is secret in the text at pos.
func (w *walker) free(pos int, where place) error {
	w.next()
	q := w.next()
	text, salt := w.buf[pos+1:q], w.saltOf(where)
	escaped := w.escaped(pos, q)
	if escaped {
		salt += saltRaw
	}
	hash, plain := w.clean.has(text, salt)
	if plain {
		return nil
	}
	if escaped {
		w.seek(pos)
		var err error
		if text, _, err = w.string(pos); err != nil {
			return err
		}
	}
	if out, changed := w.look(text, where, hash); changed {
		w.replaceText(pos, q+1, out)
	}
	return nil
}

// saltOf says by what a free text is looked at.
func (w *walker) saltOf(where place) uint64 {
	return saltFree + uint64(where) + 8*w.s.known.added.Load()
}

func (w *walker) freeText(text []byte, where place) (out []byte, changed bool) {
	hash, plain := w.clean.has(text, w.saltOf(where))
	if plain {
		return nil, false
	}
	return w.look(text, where, hash)
}

// look masks what is secret in a text, and remembers by hash where nothing is.
func (w *walker) look(text []byte, where place, hash uint64) (out []byte, changed bool) {
	if out, changed = w.s.freeText(text, where, &w.left, &w.spans, &w.owner); !changed {
		w.clean.add(hash)
	}
	return out, changed
}

// mark masks the value at pos, whatever it is.
func (w *walker) mark(pos int, base64ed bool) error {
	switch w.buf[pos] {
	case '"':
		text, end, err := w.string(pos)
		if err != nil {
			return err
		}
		if len(text) == 0 {
			return nil
		}
		if base64ed {
			w.replaceMark(pos, end, text, w.s.appendSecret64)
		} else {
			w.replaceMark(pos, end, text, w.s.appendSecret)
		}
		return nil
	case 'n':
		w.end(pos)
		return nil // null
	}
	end := w.end(pos)
	v, err := decode(w.buf[pos:end])
	if err != nil {
		return errSyntax
	}
	out, err := encode(w.deep(v))
	if err != nil {
		return errSyntax
	}
	w.replace(pos, end, out)
	return nil
}

// whole masks every value of the object at pos but its kind and apiVersion.
func (w *walker) whole(pos int) error {
	w.seek(pos + 1)
	for {
		name, value, more, err := w.member()
		if err != nil || !more {
			return err
		}
		if s := string(name); s == "kind" || s == "apiVersion" {
			w.end(value)
			continue
		}
		if err := w.mark(value, false); err != nil {
			return err
		}
	}
}

// named masks a value whose name may say that it is a credential.
func (w *walker) named(name []byte, pos int, base64ed bool) error {
	if w.buf[pos] != '"' {
		return w.value(nil, pos, leaf(actNamed))
	}
	if string(name) == releaseKey {
		if done, err := w.release(pos); done || err != nil {
			return err
		}
	}
	credential := w.s.rules.credential(name)
	text, end, err := w.string(pos)
	if err != nil {
		return err
	}
	credential = credential || string(name) == releaseKey && bytes.HasPrefix(text, []byte(gzipBase64))
	if base64ed {
		plain := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
		n, err := base64.StdEncoding.Decode(plain, text)
		if err != nil {
			return nil // the API server takes no such value
		}
		plain = plain[:n]
		credential = credential || string(name) == releaseKey && bytes.HasPrefix(plain, []byte(gzipBase64))
		if !credential && utf8.Valid(plain) {
			_, credential = w.freeText(plain, inConfig)
		}
		if credential && len(plain) > 0 {
			w.replaceText(pos, end, []byte(base64.StdEncoding.EncodeToString(w.s.appendOther(nil, plain, &w.owner))))
		}
		return nil
	}
	if credential && !trivial(text) {
		w.replaceMark(pos, end, text, w.s.appendOther)
		return nil
	}
	if out, changed := w.freeText(text, inConfig); changed {
		w.replaceText(pos, end, out)
	}
	return nil
}

// env walks over one variable of a container's environment.
func (w *walker) env(pos int) error {
	if w.buf[pos] != '{' {
		return w.value(nil, pos, leaf(actEnv))
	}
	if err := w.enter(); err != nil {
		return err
	}
	defer func() { w.depth-- }()
	w.seek(pos + 1)
	credential := false
	var values []int
	for {
		name, value, more, err := w.member()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		switch {
		case string(name) == "name" && w.buf[value] == '"':
			text, _, err := w.string(value)
			if err != nil {
				return err
			}
			credential = credential || w.s.rules.credential(text)
		case string(name) == "value" && w.buf[value] == '"':
			values = append(values, value)
			w.end(value)
		default:
			if err := w.value(name, value, nil); err != nil {
				return err
			}
		}
	}
	at, word := w.at, w.word
	for _, v := range values {
		w.seek(v)
		if !credential {
			if err := w.free(v, inConfig); err != nil {
				return err
			}
			continue
		}
		text, end, err := w.string(v)
		if err != nil {
			return err
		}
		if !trivial(text) {
			w.replaceMark(v, end, text, w.s.appendOther)
		}
	}
	w.at, w.word = at, word
	return nil
}

// args walks over a command line: the value of a flag may be the next argument.
func (w *walker) args(pos int) error {
	flag := false
	return w.each(pos, func(at int) error {
		if w.buf[at] != '"' {
			flag = false
			return w.value(nil, at, nil)
		}
		text, end, err := w.string(at)
		if err != nil {
			return err
		}
		if flag && len(text) > 0 && text[0] != '-' {
			flag = false
			if !trivial(text) {
				w.replaceMark(at, end, text, w.s.appendOther)
			}
			return nil
		}
		flag = len(text) > 1 && text[0] == '-' && !bytes.ContainsAny(text, "= \n") && w.s.rules.credential(bytes.TrimLeft(text, "-"))
		if out, changed := w.freeText(text, inConfig); changed {
			w.replaceText(at, end, out)
		}
		return nil
	})
}

// annotations walks over annotations. Those of a masked kind, and the ones
// that hold a whole object, may quote it.
func (w *walker) annotations(pos int, quotes about) error {
	if err := w.enter(); err != nil {
		return err
	}
	defer func() { w.depth-- }()
	w.seek(pos + 1)
	for {
		name, value, more, err := w.member()
		if err != nil || !more {
			return err
		}
		if w.buf[value] != '"' {
			if err := w.value(nil, value, leaf(actNotes)); err != nil {
				return err
			}
			continue
		}
		applied := string(name) == lastApplied
		if i := bytes.LastIndexByte(name, '/'); i >= 0 {
			name = name[i+1:]
		}
		credential := w.s.rules.credential(name)
		text, end, err := w.string(value)
		if err != nil {
			return err
		}
		out, changed := w.note(text, applied, credential, quotes)
		if changed {
			w.replaceText(value, end, out)
		}
	}
}

// note masks one annotation's text.
func (w *walker) note(text []byte, applied, credential bool, quotes about) (out []byte, changed bool) {
	secret := quotes.rules != nil && quotes.rules.secret
	t := bytes.TrimSpace(text)
	switch {
	case len(t) == 0:
		return nil, false
	case t[0] == '{' || t[0] == '[':
		out, err := w.s.quote(t, quotes, w.quoted+1, &w.left, w)
		switch {
		case err == nil:
			return out, out != nil
		case applied || secret:
			return w.s.appendSecret(nil, text, &w.owner), true
		}
	case applied, secret && bytes.HasPrefix(t, []byte("H4sI")):
		// Something else than an object, or a compressed one.
		return w.s.appendSecret(nil, text, &w.owner), true
	case credential && !trivial(text):
		return w.s.appendOther(nil, text, &w.owner), true
	}
	return w.freeText(text, inConfig)
}

// plainManaged passes over managedFields that begin at pos, if they hold no
// value: they are long, and few do.
func (w *walker) plainManaged(pos int) bool {
	end := w.end(pos)
	w.seek(pos + 1)
	for {
		p := w.next()
		if p == end-1 {
			return true
		}
		if w.buf[p] != '"' {
			continue
		}
		q := w.next()
		if q-p <= minValue {
			continue
		}
		text := w.buf[p+1 : q]
		switch isName := w.buf[w.skipSpace(q+1)] == ':'; {
		case !isName:
			if len(text) >= minFormat && (w.escaped(p, q) || w.may(text)) {
				return false
			}
		case text[0] == 'f', text[0] != '\\' && text[1] != ':' && text[1] != '\\': // a field, as most are, or a part of what stands around them
		case text[0] != 'k', len(text) >= minFormat && w.mayKey(text):
			return false
		}
	}
}

// mayKey reports whether the JSON of a list's key in managedFields may hold a
// credential. It errs on the safe side.
func (w *walker) mayKey(raw []byte) bool {
	hash, plain := w.clean.has(raw, saltManaged)
	if plain {
		return false
	}
	if bytes.Contains(raw, anyEscape) || bytes.Contains(raw, slashEscape) || bytes.Contains(raw, innerEscape) || w.s.detect.mayFormat(raw) {
		return true
	}
	w.clean.add(hash)
	return false
}

var emptyList = []byte("[]")

var (
	anyEscape   = []byte(`\u`)
	slashEscape = []byte(`\/`)
	innerEscape = []byte(`\\`) // of a text within the key
)

// managed masks the values that names below managedFields hold: v:VALUE is an
// element of a set, k:{…} the key of a list's element (structured-merge-diff).
func (w *walker) managed(name []byte) {
	if len(name) < minValue || name[1] != ':' || name[0] != 'v' && name[0] != 'k' {
		return
	}
	where := inConfig
	if name[0] == 'k' {
		where = inField // its keys are names and ports
	}
	if out, changed := w.freeText(name, where); changed {
		w.replaceText(w.nameFrom, w.nameTo, out)
	}
}

// Package jsontree reads JSON so that only what is asked for is decoded. One
// pass checks the syntax of all of it (RFC 8259, names given twice and invalid
// UTF-8 refused) and notes where each value stands; a value becomes a string, a
// number or a map when somebody asks.
//
// A value decodes to just what sigs.k8s.io/json makes of it: whole numbers that
// fit become int64, others float64.
package jsontree

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Kind is what a value is: '{', '[', '"', '0', 't', 'f' or 'n'; zero where it is absent.
type Kind = jsontext.Kind

// Value is one value of a document. The zero Value is one that is absent. It
// aliases the bytes that were parsed; they must not change. Values of one
// document are not safe for concurrent use.
type Value struct {
	d *document
	i int32
}

// document is the text and its values in the order of their first byte.
type document struct {
	text  []byte
	nodes []node
	index map[int32]*index // of large containers, made when first asked for
}

// node is one value. What a container holds follows it, up to next.
type node struct {
	at, end       uint32 // where it stands
	nameAt, named uint32 // where its name stands, without quotes: of a member only
	next          int32  // the node after this one and all in it
	length        int32  // how many values a container holds
	kind          Kind
	escaped       bool // a string with a backslash in it
	nameEscaped   bool
}

// MaxBytes is the longest text that is read.
const MaxBytes = 64 << 20

var (
	errTooLong  = errors.New("the JSON text is too long")
	errTrailing = errors.New("there is more than one JSON value")
	errNumber   = errors.New("a number is out of range")
	errTwice    = errors.New("a name is given twice in one object")
)

// maxSmallNumber is the longest number that always fits a float64.
const maxSmallNumber = 20

// Parse reads text, which is one JSON value. Errors don't quote it.
func Parse(text []byte) (Value, error) {
	if len(text) > MaxBytes {
		return Value{}, errTooLong
	}
	// Names given twice are found below: jsontext takes longer for that than for
	// all the rest (a hash table for each object), and webhooks are waited for.
	if !jsontext.Value(text).IsValid(jsontext.AllowDuplicateNames(true)) {
		return Value{}, fault(text)
	}
	s := scanner{text: text, nodes: make([]node, 0, 16+len(text)/16)}
	if err := s.scan(); err != nil {
		return Value{}, err
	}
	return Value{d: &document{text: text, nodes: s.nodes}}, nil
}

// fault says what is wrong with text, without quoting it as jsontext's errors do.
func fault(text []byte) error {
	d := jsontext.NewDecoder(bytes.NewBuffer(text))
	_, err := d.ReadValue()
	if err == nil {
		return errTrailing
	}
	var syntactic *jsontext.SyntacticError
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return errTwice
	case errors.As(err, &syntactic):
		return fmt.Errorf("not JSON (RFC 8259): byte %d", syntactic.ByteOffset)
	}
	return errors.New("not JSON (RFC 8259): it ends too early")
}

// scanner notes where the values of a text stand that is known to be valid.
type scanner struct {
	text  []byte
	nodes []node
	names [][]byte // room for those of one object
}

// scan relies on the text being valid JSON: of that, quotes and brackets tell all.
func (s *scanner) scan() error {
	var open []int32  // the containers that are not closed yet
	var name node     // of the next value
	awaiting := false // that name was read
	begin := func(kind Kind, at, end int, escaped bool) {
		i := int32(len(s.nodes))                                                               //nolint:gosec // at most MaxBytes
		n := node{kind: kind, at: uint32(at), end: uint32(end), escaped: escaped, next: i + 1} //nolint:gosec // at most MaxBytes
		if len(open) > 0 {
			s.nodes[open[len(open)-1]].length++
			if awaiting {
				n.nameAt, n.named, n.nameEscaped = name.nameAt, name.named, name.nameEscaped
				awaiting = false
			}
		}
		s.nodes = append(s.nodes, n)
		if kind == '{' || kind == '[' {
			open = append(open, i)
		}
	}
	for at := 0; at < len(s.text); {
		switch c := s.text[at]; c {
		case ' ', '\t', '\r', '\n', ',', ':':
			at++
		case '{', '[':
			begin(Kind(c), at, at, false)
			at++
		case '}', ']':
			at++
			n := &s.nodes[open[len(open)-1]]
			n.end, n.next = uint32(at), int32(len(s.nodes)) //nolint:gosec // at most MaxBytes
			if c == '}' && !s.distinct(open[len(open)-1]) {
				return errTwice
			}
			open = open[:len(open)-1]
		case '"':
			end, escaped := s.stringEnd(at + 1)
			if len(open) > 0 && !awaiting && s.nodes[open[len(open)-1]].kind == '{' {
				name = node{nameAt: uint32(at + 1), named: uint32(end - 1), nameEscaped: escaped} //nolint:gosec // at most MaxBytes
				awaiting = true
			} else {
				begin('"', at, end, escaped)
			}
			at = end
		default: // a number, true, false or null
			end := at + 1
			for end < len(s.text) && strings.IndexByte(" \t\r\n,]}", s.text[end]) < 0 {
				end++
			}
			if c == '-' || c >= '0' && c <= '9' {
				if end-at > maxSmallNumber || bytes.ContainsAny(s.text[at:end], "eE") {
					if _, err := number(s.text[at:end]); err != nil {
						return err
					}
				}
				c = '0'
			}
			begin(Kind(c), at, end, false)
			at = end
		}
	}
	return nil
}

var quote = []byte{'"'}

// distinct reports whether the members of an object, which was just read whole,
// have different names.
func (s *scanner) distinct(object int32) bool {
	names, plain := s.names[:0], true
	for i := object + 1; int(i) < len(s.nodes); i = s.nodes[i].next {
		n := &s.nodes[i]
		name := s.text[n.nameAt:n.named]
		plain = plain && (!n.nameEscaped || spelledOnce(name))
		names = append(names, name)
	}
	s.names = names
	if !plain {
		for i, name := range names {
			names[i], _ = jsontext.AppendUnquote(nil, slices.Concat(quote, name, quote)) // known to be valid
		}
	}
	if len(names) > smallContainer {
		slices.SortFunc(names, bytes.Compare)
		for i := 1; i < len(names); i++ {
			if bytes.Equal(names[i-1], names[i]) {
				return false
			}
		}
		return true
	}
	var seen uint64 // a bit for what names end in
	for i, name := range names {
		bit := uint64(1) << (ending(name) * 0x9e3779b97f4a7c15 >> 58)
		if seen&bit != 0 && slices.ContainsFunc(names[:i], func(other []byte) bool { return bytes.Equal(other, name) }) {
			return false
		}
		seen |= bit
	}
	return true
}

// ending is the last seven bytes of a name, and its length.
func ending(name []byte) uint64 {
	e := uint64(len(name))
	for _, c := range name[max(0, len(name)-7):] {
		e = e<<8 | uint64(c)
	}
	return e
}

// spelledOnce reports whether a name with escapes is equal to another such name
// only where they are spelled alike (RFC 8259, section 7): \u and \/ stand for
// characters that have another spelling, the other escapes for those that don't.
func spelledOnce(name []byte) bool {
	for i := 0; i < len(name); i++ {
		if name[i] == '\\' {
			if i++; name[i] == 'u' || name[i] == '/' {
				return false
			}
		}
	}
	return true
}

// stringEnd is where the string ends whose first byte is at start: after its quote.
func (s *scanner) stringEnd(start int) (end int, escaped bool) {
	for at := start; ; {
		at += bytes.IndexByte(s.text[at:], '"') + 1
		before := at - 2 // the run of backslashes before the quote
		for s.text[before] == '\\' {
			before--
		}
		if (at-2-before)%2 == 0 {
			return at, bytes.IndexByte(s.text[start:at], '\\') >= 0
		}
	}
}

// number is what raw stands for: an int64 or a float64.
func number(raw []byte) (any, error) {
	if bytes.IndexByte(raw, '.') < 0 {
		if i, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
			return i, nil
		}
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || math.IsInf(f, 0) {
		return nil, errNumber
	}
	return f, nil
}

func (v Value) node() *node { return &v.d.nodes[v.i] }

// Kind says what v is.
func (v Value) Kind() Kind {
	if v.d == nil {
		return 0
	}
	return v.node().kind
}

// Raw is v's text, nil where it is absent. It is part of what was parsed.
func (v Value) Raw() []byte {
	if v.d == nil {
		return nil
	}
	return v.d.text[v.node().at:v.node().end:v.node().end]
}

// Span is where Raw stands in what was parsed.
func (v Value) Span() (from, to int) {
	if v.d == nil {
		return 0, 0
	}
	return int(v.node().at), int(v.node().end)
}

// Len is how many members or items v has.
func (v Value) Len() int {
	if v.d == nil {
		return 0
	}
	return int(v.node().length)
}

// Size is how many values v is, itself included, and how deep they are nested.
func (v Value) Size() (values, depth int) {
	if v.d == nil {
		return 0, 0
	}
	var open []int32 // where the containers end
	end := v.node().next
	for i := v.i; i < end; i++ {
		for len(open) > 0 && open[len(open)-1] <= i {
			open = open[:len(open)-1]
		}
		if n := &v.d.nodes[i]; n.kind == '{' || n.kind == '[' {
			open = append(open, n.next)
			depth = max(depth, len(open))
		}
	}
	return int(end - v.i), depth
}

// String is the string that v is, and empty where it is none.
func (v Value) String() string {
	if v.Kind() != '"' {
		return ""
	}
	n := v.node()
	return v.d.unquote(n.at+1, n.end-1, n.escaped)
}

// name is what v is called in its object.
func (v Value) name() string {
	n := v.node()
	return v.d.unquote(n.nameAt, n.named, n.nameEscaped)
}

// unquote decodes the string between at and end, which was checked already.
func (d *document) unquote(at, end uint32, escaped bool) string {
	if !escaped {
		return string(d.text[at:end])
	}
	b, _ := jsontext.AppendUnquote(nil, d.text[at-1:end+1])
	return string(b)
}

// Get is the member of that name, absent where there is none or v is no object.
func (v Value) Get(name string) Value {
	if v.Kind() != '{' {
		return Value{}
	}
	if v.Len() > smallContainer {
		i, ok := v.indexed().members[name]
		if !ok {
			return Value{}
		}
		return Value{v.d, i}
	}
	for m := range v.values() {
		n := m.node()
		if !n.nameEscaped && string(v.d.text[n.nameAt:n.named]) == name || n.nameEscaped && m.name() == name {
			return m
		}
	}
	return Value{}
}

// At is the member at the end of a path of names.
func (v Value) At(path ...string) Value {
	for _, name := range path {
		v = v.Get(name)
	}
	return v
}

// Item is the i-th item, absent where there is none or v is no array.
func (v Value) Item(i int) Value {
	if v.Kind() != '[' || i < 0 || i >= v.Len() {
		return Value{}
	}
	if v.Len() > smallContainer {
		return Value{v.d, v.indexed().items[i]}
	}
	for e := range v.values() {
		if i == 0 {
			return e
		}
		i--
	}
	return Value{}
}

// Members are an object's members in their order.
func (v Value) Members() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		if v.Kind() != '{' {
			return
		}
		for m := range v.values() {
			if !yield(m.name(), m) {
				return
			}
		}
	}
}

// Items are an array's items in their order.
func (v Value) Items() iter.Seq[Value] {
	return func(yield func(Value) bool) {
		if v.Kind() != '[' {
			return
		}
		for e := range v.values() {
			if !yield(e) {
				return
			}
		}
	}
}

// EscapedStrings are all strings in v, names of members included, whose text
// isn't what they stand for.
func (v Value) EscapedStrings() iter.Seq[string] {
	return func(yield func(string) bool) {
		if v.d == nil {
			return
		}
		for i := v.i; i < v.node().next; i++ {
			e := Value{v.d, i}
			n := e.node()
			if n.nameEscaped && i > v.i && !yield(e.name()) || n.escaped && !yield(e.String()) {
				return
			}
		}
	}
}

// values are what a container holds.
func (v Value) values() iter.Seq[Value] {
	return func(yield func(Value) bool) {
		for i, end := v.i+1, v.node().next; i < end; i = v.d.nodes[i].next {
			if !yield(Value{v.d, i}) {
				return
			}
		}
	}
}

// smallContainer is up to how many values a container is searched one by one.
const smallContainer = 24

// index finds what a large container holds at once.
type index struct {
	members map[string]int32
	items   []int32
}

func (v Value) indexed() *index {
	if x := v.d.index[v.i]; x != nil {
		return x
	}
	x := &index{}
	if v.Kind() == '{' {
		x.members = make(map[string]int32, v.Len())
		for m := range v.values() {
			x.members[m.name()] = m.i
		}
	} else {
		x.items = make([]int32, 0, v.Len())
		for e := range v.values() {
			x.items = append(x.items, e.i)
		}
	}
	if v.d.index == nil {
		v.d.index = map[int32]*index{}
	}
	v.d.index[v.i] = x
	return x
}

// Decode makes v anew of maps, slices, strings, int64, float64, bool and nil.
func (v Value) Decode() any {
	switch v.Kind() {
	case '{':
		m := make(map[string]any, v.Len())
		for member := range v.values() {
			m[member.name()] = member.Decode()
		}
		return m
	case '[':
		l := make([]any, 0, v.Len())
		for e := range v.values() {
			l = append(l, e.Decode())
		}
		return l
	case '"':
		return v.String()
	case '0':
		n, _ := number(v.Raw()) // Parse has seen that it is one
		return n
	case 't', 'f':
		return v.Kind() == 't'
	}
	return nil
}

// Object is Decode of an object, and nil where v is none.
func (v Value) Object() map[string]any {
	m, _ := v.Decode().(map[string]any)
	return m
}

// IsNull reports whether v is absent or null.
func (v Value) IsNull() bool { return v.d == nil || v.node().kind == 'n' }

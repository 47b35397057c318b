package mask

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

var errDepth = fmt.Errorf("it nests deeper than %d", maxDepth)

// stream is what masks one answer. Streams are used again: their buffers are
// what costs.
type stream struct {
	sc scanner
	w  walker
}

var streams = sync.Pool{New: func() any { return new(stream) }}

// maxKeptBytes bounds the buffer of a stream that is kept to be used again.
const maxKeptBytes = 1 << 20

func (s *Scoped) stream(src io.Reader) *stream {
	st := streams.Get().(*stream) //nolint:forcetypeassert // the pool holds nothing else
	st.sc.reset(src)
	st.w.s, st.w.quoted, st.w.left, st.w.unpacked = s, 0, freeLooks, 0
	st.w.host, st.w.stray.id, st.w.here, st.w.roots = nil, nil, nil, st.w.roots[:0]
	st.w.owner, st.w.clean = owner{of: &st.w}, s.clean
	return st
}

// release gives st back to be used again.
func (st *stream) release() {
	if cap(st.sc.buf) > maxKeptBytes {
		return
	}
	st.sc.src, st.w.s, st.w.buf, st.w.blocks = nil, nil, nil, nil
	st.w.edits, st.w.texts = st.w.edits[:0], st.w.texts[:0]
	streams.Put(st)
}

// JSON copies Kubernetes' JSON from src to dst and masks it on the way: one
// object, a list, a table, or a watch stream of many events. A list is copied
// item by item, so memory is bounded by the largest item. What need not be
// masked passes as it stands. Where dst has a Flush method, it is called after
// every top-level value.
//
// On an error nothing of the value that could not be masked has been passed on,
// but what stood before it has: the caller must cut the answer short.
func (s *Scoped) JSON(dst io.Writer, src io.Reader) error { return s.JSONOf(Ref{}, dst, src) }

// JSONOf is JSON for an answer about ref: an object that doesn't say what it
// is, is taken for one of it, and an object of a masked kind is masked as one
// whatever it calls itself.
func (s *Scoped) JSONOf(ref Ref, dst io.Writer, src io.Reader) error {
	st := s.stream(src)
	defer st.release()
	a := s.rules.of(ref)
	st.w.answers(a)
	pos := 0
	for {
		b, at, err := st.sc.at(pos)
		if err == io.EOF { //nolint:errorlint // the scanner passes a reader's io.EOF on as it is
			return nil
		}
		if err == nil && b != '{' {
			err = errNoObject // no Kubernetes answer is a bare list or scalar
		}
		if err == nil {
			pos, err = st.answer(dst, st.sc.discard(at), a)
		}
		if err == nil {
			_, err = dst.Write(newline)
		}
		if err != nil {
			return fmt.Errorf("mask: %w", err)
		}
		if f, ok := dst.(interface{ Flush() }); ok {
			f.Flush()
		}
	}
}

var (
	newline     = []byte("\n")
	errNoObject = errors.New("it is no JSON object")
)

// span of a member of the answer, positions of its name and of its value.
type answerMember struct{ name, value int }

// answer copies the object that begins at pos, and gives where it ends. Its
// members are kept until they end, when it is masked as a whole, or until a list
// of items or rows begins: then what was kept goes out and each element is
// masked by itself.
func (st *stream) answer(dst io.Writer, start int, a about) (int, error) {
	sc, w := &st.sc, &st.w
	var kept []answerMember
	kind, streamed := "", false
	out, p := start, start+1
	for {
		b, at, err := sc.at(p)
		if err != nil {
			return 0, short(err)
		}
		switch b {
		case ',':
			p = at + 1
			continue
		case '}':
			w.over(sc)
			w.left.more(at - out)
			if streamed {
				err = st.members(kept, kind, a)
			} else {
				err = w.root(start, a)
			}
			if err == nil {
				_, err = w.emit(dst, out, at+1)
			}
			return at + 1, err
		case '"':
		default:
			return 0, errSyntax
		}
		end, err := sc.quote(at)
		if err != nil {
			return 0, err
		}
		b, colon, err := sc.at(end)
		if err != nil || b != ':' {
			return 0, short(cmpErr(err, errSyntax))
		}
		b, value, err := sc.at(colon + 1)
		if err != nil {
			return 0, short(err)
		}
		name, err := unquoted(sc.buf[at:end])
		if err != nil {
			return 0, errSyntax
		}
		if (name == "items" || name == "rows") && b == '[' {
			w.over(sc)
			if kind == "" {
				kind = st.kindIn(kept)
			}
			if kind == "" && !a.sure {
				a = about{} // a kind that still comes may be a masked one
			}
			if err := st.members(kept, kind, a); err != nil {
				return 0, err
			}
			kept, streamed = kept[:0], true
			if out, err = w.emit(dst, out, value+1); err != nil {
				return 0, err
			}
			shift := sc.discard(out) - out
			if out, p, err = st.elements(dst, out+shift, name, kind, a); err != nil {
				return 0, err
			}
			continue
		}
		if p, err = sc.end(value); err != nil {
			return 0, err
		}
		if p-out > MaxObjectBytes {
			return 0, errTooLarge
		}
		kept = append(kept, answerMember{at, value})
	}
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

func short(err error) error {
	if err == io.EOF { //nolint:errorlint // as above
		return errShort
	}
	return err
}

func unquoted(raw []byte) (string, error) {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil
	}
	b, err := jsontext.AppendUnquote(nil, raw)
	return string(b), err
}

// kindIn gives the kind that the members name, if they do.
func (st *stream) kindIn(members []answerMember) string {
	w := &st.w
	for _, m := range members {
		w.seek(m.name)
		name, value, more, err := w.member()
		if err == nil && more && string(name) == "kind" && w.buf[value] == '"' {
			if text, _, err := w.string(value); err == nil {
				return string(text)
			}
		}
	}
	return ""
}

// members masks members of an answer of kind, empty where that isn't known yet.
func (st *stream) members(members []answerMember, kind string, a about) error {
	w := &st.w
	if kind == "Status" {
		return errSyntax // no Status has items
	}
	rules, both := w.s.rules.named(a, kind)
	for _, m := range members {
		w.seek(m.name)
		name, value, more, err := w.member()
		if err != nil || !more {
			return cmpErr(err, errSyntax)
		}
		if string(name) == "kind" && w.buf[value] == '"' {
			text, _, err := w.string(value)
			if err != nil {
				return err
			}
			if late := string(text); late != kind && !w.s.rules.mayComeLate(kind, late) {
				return errKind
			}
			continue
		}
		if both {
			err = w.mark(value, false)
		} else {
			err = w.rootMember(name, value, kind, a, rules)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

var errKind = errors.New("it says what it is after its items, or twice")

// elements copies the elements of a list of items or rows that goes on at pos,
// and gives what has been written so far and where the list ended.
func (st *stream) elements(dst io.Writer, pos int, list, kind string, a about) (out, p int, err error) {
	sc, w := &st.sc, &st.w
	out, p = pos, pos
	item := a
	if list == "items" {
		item = w.s.rules.item(a, kind)
	}
	for {
		b, at, err := sc.at(p)
		if err != nil {
			return 0, 0, short(err)
		}
		switch b {
		case ',':
			p = at + 1
			continue
		case ']':
			w.over(sc)
			return out, at + 1, nil
		case '}', ':':
			return 0, 0, errSyntax
		}
		end, err := sc.end(at)
		if err != nil {
			return 0, 0, err
		}
		w.over(sc)
		w.left.more(end - at)
		w.seek(at)
		if list == "rows" {
			err = w.row(at, a)
		} else {
			err = w.object(at, item)
		}
		if err != nil {
			return 0, 0, err
		}
		p = end
		// What is unchanged waits to be written with what follows it.
		if len(w.edits) > 0 || p-out > readBytes || p > cap(sc.buf)/2 || len(sc.buf)-p < blockBytes {
			if out, err = w.emit(dst, out, p); err != nil {
				return 0, 0, err
			}
			if p > cap(sc.buf)/2 || p == len(sc.buf) {
				p = sc.discard(p)
				out = p
			}
		}
	}
}

// answers says what the answer is about, as the request does.
func (w *walker) answers(a about) {
	w.top = a
	w.secret = !a.known || a.sure && a.rules == secretRules
}

// over has w walk over what sc has read.
func (w *walker) over(sc *scanner) {
	w.buf, w.blocks, w.depth = sc.buf, sc.blocks, 0
	w.edits, w.texts = w.edits[:0], w.texts[:0]
}

// emit writes what stands from from up to to, with the edits made, and gives to.
func (w *walker) emit(dst io.Writer, from, to int) (int, error) {
	if !slices.IsSortedFunc(w.edits, byPlace) {
		slices.SortFunc(w.edits, byPlace)
	}
	for _, e := range w.edits {
		if _, err := dst.Write(w.buf[from:e.from]); err != nil {
			return 0, err
		}
		if _, err := dst.Write(w.texts[e.with:e.end]); err != nil {
			return 0, err
		}
		from = e.to
	}
	w.edits, w.texts = w.edits[:0], w.texts[:0]
	if from < to {
		if _, err := dst.Write(w.buf[from:to]); err != nil {
			return 0, err
		}
	}
	return to, nil
}

func byPlace(a, b edit) int { return a.from - b.from }

// quote masks the object, or the list of objects, that a text quotes. out is nil
// where nothing of it is masked. host is where the text stands; nil: it is the
// object itself.
func (s *Scoped) quote(text []byte, a about, depth int, left *budget, host *walker) (out []byte, err error) {
	if depth > maxQuoted {
		return nil, errDepth
	}
	st := s.stream(bytes.NewReader(text))
	defer st.release()
	st.w.quoted, st.w.left = depth, *left
	st.w.answers(a)
	if host != nil {
		st.w.host, st.w.secret = host, host.owner.secret
	}
	defer func() { *left = st.w.left }()
	_, at, err := st.sc.at(0)
	if err != nil {
		return nil, err
	}
	end, err := st.sc.end(at)
	if err != nil {
		return nil, err
	}
	if _, _, err := st.sc.at(end); err != io.EOF { //nolint:errorlint // as above
		return nil, errSyntax
	}
	w := &st.w
	w.over(&st.sc)
	if st.sc.buf[at] == '[' {
		err = w.each(at, func(at int) error { return w.object(at, a) })
	} else {
		err = w.root(at, a)
	}
	if err != nil || len(w.edits) == 0 {
		return nil, err
	}
	var b bytes.Buffer
	if _, err := w.emit(&b, at, end); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

package mask

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxObjectBytes bounds one object, one list item or one table row. etcd takes
// objects of 1.5 MiB by default; the API server bodies of 3 MiB.
const MaxObjectBytes = 16 << 20

var (
	errTrailing = errors.New("there is more than one JSON value")
	errTooLarge = fmt.Errorf("one object is larger than %d bytes", MaxObjectBytes)
)

// JSON copies Kubernetes' JSON from src to dst and masks it on the way: one
// object, a list, a table, or a watch stream of many events. A list is copied
// item by item, so memory is bounded by the largest item. Where dst has a Flush
// method, it is called after every top-level value.
//
// On an error nothing of the value that could not be masked has been passed on,
// but what stood before it has: the caller must cut the answer short.
func (s *Scoped) JSON(dst io.Writer, src io.Reader) error { return s.JSONOf("", "", dst, src) }

// JSONOf is JSON for an answer about the resource: an object that doesn't say
// what it is, is taken for one of it.
func (s *Scoped) JSONOf(resource, subresource string, dst io.Writer, src io.Reader) error {
	hint := kindOf(resource, subresource)
	in := &bounded{src: src}
	d := jsontext.NewDecoder(in)
	for {
		in.refill()
		switch kind := d.PeekKind(); kind {
		case '{':
			if err := s.stream(dst, d, in, hint); err != nil {
				return err
			}
		case jsontext.KindInvalid:
			_, err := d.ReadToken()
			if err == io.EOF { //nolint:errorlint // jsontext returns io.EOF itself at the end of the stream
				return nil
			}
			return fmt.Errorf("mask: %w", hide(err))
		default:
			// No Kubernetes answer is a bare list or scalar.
			return errors.New("mask: the answer is no JSON object")
		}
		if _, err := io.WriteString(dst, "\n"); err != nil {
			return err
		}
		if f, ok := dst.(interface{ Flush() }); ok {
			f.Flush()
		}
	}
}

// bounded refuses to read more than one value may take, so that a value too
// large is never held whole first. It is refilled before each value.
type bounded struct {
	src  io.Reader
	left int
}

// slackBytes is for what stands around a value: its name, commas, white space.
const slackBytes = 64 << 10

func (b *bounded) refill() { b.left = MaxObjectBytes + slackBytes }

// Read reads up to the bound.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.src.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// memberBytes is about what a kept member takes beside its text, so that many
// tiny ones count for what they cost.
const memberBytes = 64

// member is one name and value of the object being read, kept until it is
// known what the object is.
type member struct {
	name string
	raw  jsontext.Value
}

// stream copies one top-level object. Its members are kept until they end,
// when it is masked as a whole, or until an array of items or rows begins: then
// what was kept goes out and each element is masked by itself.
func (s *Scoped) stream(dst io.Writer, d *jsontext.Decoder, in *bounded, hint string) error {
	if _, err := d.ReadToken(); err != nil {
		return fmt.Errorf("mask: %w", hide(err))
	}
	var kept []member
	size, streamed := 0, false
	kind := ""
	for d.PeekKind() != '}' {
		in.refill()
		tok, err := d.ReadToken()
		if err != nil {
			return fmt.Errorf("mask: %w", hide(err))
		}
		name := tok.String()
		if (name == "items" || name == "rows") && d.PeekKind() == '[' {
			// A kind that still comes may be a masked one: until then nothing is
			// known, and the request's own kind doesn't vouch for it.
			known := hint
			if kind == "" && !sensitive(hint) {
				known = ""
			}
			if err := s.writeMembers(dst, kept, kind, known, !streamed); err != nil {
				return err
			}
			sep := ","
			if !streamed && len(kept) == 0 {
				sep = ""
			}
			kept, size, streamed = nil, 0, true
			if err := s.elements(dst, d, in, sep, name, kind, known); err != nil {
				return err
			}
			continue
		}
		v, err := d.ReadValue()
		if err != nil {
			return fmt.Errorf("mask: %w", hide(err))
		}
		if size += len(name) + len(v) + memberBytes; size > MaxObjectBytes {
			return fmt.Errorf("mask: %w", errTooLarge)
		}
		if name == "kind" {
			if k, err := jsontext.AppendUnquote(nil, v); err == nil {
				kind = string(k)
			}
		}
		kept = append(kept, member{name, v.Clone()})
	}
	if _, err := d.ReadToken(); err != nil {
		return fmt.Errorf("mask: %w", hide(err))
	}
	if err := s.writeMembers(dst, kept, kind, hint, !streamed); err != nil {
		return err
	}
	_, err := io.WriteString(dst, "}")
	return err
}

// writeMembers masks the kept members as one object and writes them, with the
// opening brace where first.
func (s *Scoped) writeMembers(dst io.Writer, kept []member, kind, hint string, first bool) error {
	var raw bytes.Buffer
	raw.WriteByte('{')
	for i, m := range kept {
		if i > 0 {
			raw.WriteByte(',')
		}
		name, err := jsontext.AppendQuote(nil, m.name)
		if err != nil {
			return fmt.Errorf("mask: %w", hide(err))
		}
		raw.Write(name)
		raw.WriteByte(':')
		raw.Write(m.raw)
	}
	raw.WriteByte('}')
	// A part of the object that doesn't say its kind is masked as the kind that
	// another part named.
	h := hint
	if kind != "" && !sensitive(hint) {
		h = kind
	}
	out, err := s.element(raw.Bytes(), h)
	if err != nil {
		return err
	}
	out = out[1 : len(out)-1]
	if first {
		if _, err := io.WriteString(dst, "{"); err != nil {
			return err
		}
	} else if len(out) > 0 {
		if _, err := io.WriteString(dst, ","); err != nil {
			return err
		}
	}
	_, err = dst.Write(out)
	return err
}

// elements copies the array of a list's items or a table's rows.
func (s *Scoped) elements(dst io.Writer, d *jsontext.Decoder, in *bounded, sep, name, kind, hint string) error {
	if _, err := d.ReadToken(); err != nil {
		return fmt.Errorf("mask: %w", hide(err))
	}
	if _, err := io.WriteString(dst, sep+`"`+name+`":[`); err != nil {
		return err
	}
	if name == "items" {
		hint = itemKind(kind, hint)
	}
	for i := 0; d.PeekKind() != ']'; i++ {
		in.refill()
		v, err := d.ReadValue()
		if err != nil {
			return fmt.Errorf("mask: %w", hide(err))
		}
		if len(v) > MaxObjectBytes {
			return fmt.Errorf("mask: %w", errTooLarge)
		}
		out, err := s.element(v, hint)
		if err != nil {
			return err
		}
		if i > 0 {
			if _, err := io.WriteString(dst, ","); err != nil {
				return err
			}
		}
		if _, err := dst.Write(out); err != nil {
			return err
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return fmt.Errorf("mask: %w", hide(err))
	}
	_, err := io.WriteString(dst, "]")
	return err
}

// element masks one value that has been read and found valid. What the rules
// can't concern is passed on as it stands.
func (s *Scoped) element(raw []byte, hint string) ([]byte, error) {
	if !concerned(raw, hint) {
		return raw, nil
	}
	v, err := decode(raw)
	if err != nil {
		return nil, fmt.Errorf("mask: %w", hide(err))
	}
	if o, ok := v.(map[string]any); ok {
		s.object(o, hint, 0)
	} else if sensitive(hint) {
		v = s.deep(v)
	}
	return encode(v)
}

// concerned reports whether the rules could concern raw: a cheap look that
// errs on the safe side. An escape could hide any of the words.
func concerned(raw []byte, hint string) bool {
	if sensitive(hint) {
		return true
	}
	if bytes.IndexByte(raw, '\\') >= 0 && (bytes.Contains(raw, []byte(`\u`)) || bytes.Contains(raw, []byte(`\/`))) {
		return true
	}
	for _, word := range []string{`"data"`, `"stringData"`, `Secret"`, `"TokenRequest"`, `"Status"`, lastApplied} {
		if bytes.Contains(raw, []byte(word)) {
			return true
		}
	}
	return false
}

// hide keeps what a syntax error quotes of its input out of messages.
func hide(err error) error {
	// jsontext may wrap a failed read in a syntax error.
	if errors.Is(err, errTooLarge) {
		return errTooLarge
	}
	var syn *jsontext.SyntacticError
	if errors.As(err, &syn) {
		return fmt.Errorf("invalid JSON at byte %d", syn.ByteOffset)
	}
	return err
}

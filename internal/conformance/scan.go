package conformance

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	// windowBytes is how long a piece of a value, in any form, is taken for a
	// leak of it: 12 random letters and digits are not met by chance.
	windowBytes = 12
	// maxLayers bounds how deep forms are unwrapped: base64 of gzip in base64 in
	// an escaped annotation is four.
	maxLayers = 5
	// maxScanBytes bounds what the unwrapped layers of one text take together.
	maxScanBytes = 256 << 20
	// maxGunzipBytes bounds one gzip stream found in a text.
	maxGunzipBytes = 8 << 20
	// minRunBytes is the shortest run of base64 that is worth decoding.
	minRunBytes = 16
)

// Value is one planted value.
type Value struct {
	// Place is the hiding place that it was planted in.
	Place string
	// Secret is the part of it that nobody can guess.
	Secret []byte
}

// Hit is one value that was found.
type Hit struct {
	// Value is the place in the list that the scanner was made of.
	Value int
	// Form says how it stands there, from the inside out.
	Form string
}

// needle is a piece of a value in one form.
type needle struct {
	text  []byte
	value int
	form  string
}

// Scanner looks for values in every form. It is safe for concurrent use.
type Scanner struct {
	index map[[windowBytes]byte][]needle
	// begins has the bit of every four bytes that a needle begins with: most of
	// a text is passed over by it.
	begins []uint64
}

// NewScanner makes a scanner. A value shorter than any piece that is looked for
// could never be found, so it is an error.
func NewScanner(values []Value) (*Scanner, error) {
	s := &Scanner{index: map[[windowBytes]byte][]needle{}, begins: make([]uint64, 1<<(beginBits-6))}
	for i, v := range values {
		if len(v.Secret) < windowBytes {
			return nil, fmt.Errorf("the value planted in %s has %d bytes: fewer than %d can't be told from chance", v.Place, len(v.Secret), windowBytes)
		}
		for _, f := range formsOf(v.Secret) {
			s.add(i, f)
		}
	}
	return s, nil
}

// form is a value in one form.
type form struct {
	name   string
	text   string
	window int // how long a piece of it is enough
}

func formsOf(v []byte) []form {
	forms := []form{
		{"plain", string(v), windowBytes},
		{"hex", hex.EncodeToString(v), 2 * windowBytes},
		{"hex", strings.ToUpper(hex.EncodeToString(v)), 2 * windowBytes},
		// How Go prints bytes in an error.
		{"byte numbers", numbers(v, "%d", " "), 4 * windowBytes},
		{"byte numbers", numbers(v, "%d", ", "), 4 * windowBytes},
		{"byte numbers", numbers(v, "%d", ","), 4 * windowBytes},
		{"byte numbers", numbers(v, "0x%x", ", "), 4 * windowBytes},
	}
	for _, b := range base64Of(v) {
		forms = append(forms, form{"base64", b, windowBytes})
		for _, bb := range base64Of([]byte(b)) {
			forms = append(forms, form{"base64 of base64", bb, windowBytes})
		}
	}
	return forms
}

// base64Of gives what v alone determines of its base64, in both alphabets and
// at each of the three places where it can begin within a group.
func base64Of(v []byte) []string {
	var all []string
	for before := range 3 {
		text := append(make([]byte, before), v...)
		text = text[:len(text)/3*3]
		for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			b := enc.EncodeToString(text)
			if before > 0 {
				b = b[4:]
			}
			if !slices.Contains(all, b) {
				all = append(all, b)
			}
		}
	}
	return all
}

func numbers(v []byte, format, sep string) string {
	parts := make([]string, len(v))
	for i, b := range v {
		parts[i] = fmt.Sprintf(format, b)
	}
	return strings.Join(parts, sep)
}

const beginBits = 22

func beginOf(text []byte) uint32 {
	return binary.LittleEndian.Uint32(text) * 0x9e3779b1 >> (32 - beginBits)
}

// add indexes every piece of f by its first bytes.
func (s *Scanner) add(value int, f form) {
	for i := 0; i+f.window <= len(f.text); i++ {
		n := needle{[]byte(f.text[i : i+f.window]), value, f.name}
		key := [windowBytes]byte(n.text[:windowBytes])
		b := beginOf(n.text)
		s.begins[b>>6] |= 1 << (b & 63)
		if !slices.ContainsFunc(s.index[key], func(o needle) bool { return o.value == value && bytes.Equal(o.text, n.text) }) {
			s.index[key] = append(s.index[key], n)
		}
	}
}

// Scan finds the values in text: as it stands, and in what its escapes, base64
// and gzip hide. Each value is reported once, in the form that is nearest to
// plain.
func (s *Scanner) Scan(text []byte) []Hit {
	found := map[int]string{}
	budget := maxScanBytes
	s.layer(text, nil, &budget, found)
	hits := make([]Hit, 0, len(found))
	for v, f := range found {
		hits = append(hits, Hit{v, f})
	}
	slices.SortFunc(hits, func(a, b Hit) int { return a.Value - b.Value })
	return hits
}

func (s *Scanner) layer(text []byte, within []string, budget *int, found map[int]string) {
	if *budget -= len(text); *budget < 0 {
		return
	}
	s.search(text, within, found)
	if len(within) == maxLayers {
		return
	}
	for _, view := range []struct {
		name string
		of   func([]byte) []byte
	}{{"escapes", unescape}, {"URL escapes", percentDecode}, {"base64", decodeRuns}, {"gzip", gunzip}} {
		if view.name == "URL escapes" && slices.Contains(within, view.name) {
			continue // nobody escapes twice, and each way of unwrapping doubles the work
		}
		if inner := view.of(text); len(inner) > 0 {
			s.layer(inner, append(slices.Clone(within), view.name), budget, found)
		}
	}
}

func (s *Scanner) search(text []byte, within []string, found map[int]string) {
	for i := 0; i+windowBytes <= len(text); i++ {
		if b := beginOf(text[i:]); s.begins[b>>6]&(1<<(b&63)) == 0 {
			continue
		}
		for _, n := range s.index[[windowBytes]byte(text[i:i+windowBytes])] {
			if !bytes.HasPrefix(text[i:], n.text) {
				continue
			}
			if _, known := found[n.value]; known {
				continue
			}
			name := n.form
			for _, w := range slices.Backward(within) {
				name += " in " + w
			}
			found[n.value] = name
		}
	}
}

// unescape undoes one level of the escapes of JSON, and of Go's %q. Nil means
// that there was none.
func unescape(text []byte) []byte {
	if bytes.IndexByte(text, '\\') < 0 {
		return nil
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			out = append(out, text[i])
			continue
		}
		i++
		switch c := text[i]; c {
		case 'n':
			out = append(out, '\n')
		case 't':
			out = append(out, '\t')
		case 'r':
			out = append(out, '\r')
		case 'u', 'x':
			digits := 4
			if c == 'x' {
				digits = 2
			}
			if i+digits >= len(text) { // cut short
				out = append(out, '\\', c)
				continue
			}
			b, err := hex.DecodeString(string(text[i+1 : i+1+digits]))
			if err != nil {
				out = append(out, '\\', c)
				continue
			}
			if c == 'u' {
				b = []byte(string(rune(b[0])<<8 | rune(b[1])))
			}
			out = append(out, b...)
			i += digits
		default:
			out = append(out, c)
		}
	}
	return out
}

// percentDecode undoes the escapes of URLs. Nil means that there was none.
func percentDecode(text []byte) []byte {
	var out []byte
	last := 0
	for i := 0; i+2 < len(text); i++ {
		if text[i] != '%' {
			continue
		}
		b, err := hex.DecodeString(string(text[i+1 : i+3]))
		if err != nil {
			continue
		}
		out = append(append(out, text[last:i]...), b...)
		i += 2
		last = i + 1
	}
	if last == 0 {
		return nil
	}
	return append(out, text[last:]...)
}

// decodeRuns gives what the runs of base64 in text hold, a line each.
func decodeRuns(text []byte) []byte {
	var out []byte
	for i := 0; i < len(text); {
		end := i
		for end < len(text) && isBase64[text[end]] {
			end++
		}
		if run := text[i:end]; len(run) >= minRunBytes {
			out = append(append(out, decodeRun(run)...), '\n')
		}
		i = end + 1
	}
	return out
}

var isBase64 = func() (is [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_") {
		is[c] = true
	}
	return is
}()

// decodeRun decodes one run, of either alphabet, as far as it is whole, and
// unpacks it where it is gzip.
func decodeRun(run []byte) []byte {
	std := bytes.Clone(run)
	for i, c := range std {
		switch c {
		case '-':
			std[i] = '+'
		case '_':
			std[i] = '/'
		}
	}
	n := len(std)
	if n%4 == 1 {
		n--
	}
	b := make([]byte, base64.RawStdEncoding.DecodedLen(n))
	if n, err := base64.RawStdEncoding.Decode(b, std[:n]); err == nil {
		b = b[:n]
	} else {
		return nil
	}
	if plain := gunzip(b); plain != nil {
		return plain
	}
	return b
}

// gunzip unpacks text if it is gzip, as far as it is whole. Nil means that it
// isn't.
func gunzip(text []byte) []byte {
	if len(text) < 3 || text[0] != 0x1f || text[1] != 0x8b || text[2] != 8 {
		return nil
	}
	r, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		return nil
	}
	b, _ := io.ReadAll(io.LimitReader(r, maxGunzipBytes)) // what came before an error counts
	return b
}

package mask

import (
	"bytes"
	"io"
	"unicode/utf8"
)

const (
	// maxHeld bounds what is held back of a text whose line goes on.
	maxHeld = 16 << 10
	// lineContext is how much of a long line is kept to recognise what follows.
	lineContext = 4 << 10
	// maxKeyLines bounds how many lines a private key may have.
	maxKeyLines = 400
	// maxPiece is how much of what is written is looked at in one piece.
	maxPiece = 256 << 10
)

// Text masks free text that comes in pieces: a log, what a command prints.
// It is used by one goroutine at a time.
type Text struct {
	s   *Scoped
	dst io.Writer

	line  []byte // the line that isn't ended, from its beginning or a part of it
	out   int    // what of it has been passed on
	tried int    // how long it must be to be looked at again, where too much is held
	key   int    // lines left of a private key that has begun; 0: none
	ended bool   // nothing follows
	shown bool   // the line of the key that isn't ended has its mark already
	left  budget
	spans []span
	buf   []byte
	stray stray // what weak values are bound to
}

// Text gives a writer that masks what is written to it and passes it to dst. A
// value is found across any boundary between two writes: a line that isn't
// ended is held back until it is, or Flush, or Close.
func (s *Scoped) Text(dst io.Writer) *Text { return &Text{s: s, dst: dst, left: freeLooks} }

// Write takes the next piece. All of it is taken unless dst fails.
func (t *Text) Write(p []byte) (int, error) {
	n := len(p)
	for first := true; first || len(p) > 0; first = false {
		piece := p[:min(len(p), maxPiece)]
		p = p[len(piece):]
		t.take(piece)
		if err := t.send(); err != nil {
			return n, err
		}
	}
	return n, nil
}

func (t *Text) take(p []byte) {
	t.left.more(len(p))
	t.buf = t.buf[:0]
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			t.line = append(t.line, p...)
			break
		}
		t.line = append(t.line, p[:i+1]...)
		p = p[i+1:]
		t.pass(len(t.line))
		t.line, t.out, t.tried, t.shown = t.line[:0], 0, 0, false
	}
	// What may be a long value is held longer, but not looked at for each byte.
	if len(t.line)-t.out > maxHeld && len(t.line) >= t.tried {
		t.pass(t.safe(true))
		t.tried = len(t.line) + maxHeld/4
	}
}

// Flush passes on what is held back, but for what looks like the beginning of a
// secret. It is for what waits for an answer, such as a prompt.
func (t *Text) Flush() error {
	t.buf = t.buf[:0]
	t.pass(t.safe(false))
	return t.send()
}

// Held reports whether something is held back.
func (t *Text) Held() bool { return len(t.line) > t.out }

// Close masks and passes on what is still held back. It doesn't close dst.
func (t *Text) Close() error {
	t.buf, t.ended = t.buf[:0], true
	t.pass(len(t.line))
	t.line, t.out, t.tried, t.shown = t.line[:0], 0, 0, false
	return t.send()
}

func (t *Text) send() error {
	if len(t.buf) == 0 {
		return nil
	}
	_, err := t.dst.Write(t.buf)
	return err
}

// pass takes what of the line stands before to. Of a private key (RFC 7468)
// what stands between its first line and its last is masked, whether these are
// lines here or parts of one, as in JSON.
func (t *Text) pass(to int) {
	for to > t.out {
		if t.key > 0 {
			to -= t.keyBody(to)
			if t.key > 0 {
				return
			}
			continue
		}
		_, body := keyBegins(t.line[:to])
		if body < 0 {
			t.ordinary(t.line, to)
			return
		}
		t.ordinary(t.line[:body], body)
		t.drop(t.out) // body, unless that has moved
		to -= body
		t.key, t.shown = maxKeyLines, false
		if to == 0 {
			return
		}
	}
}

// drop forgets the first n bytes of the line, which have been dealt with.
func (t *Text) drop(n int) {
	t.line = t.line[:copy(t.line, t.line[n:])]
	t.out, t.tried = 0, 0
}

// ordinary passes on what of line, which t's begins with, stands before to and
// hasn't been.
func (t *Text) ordinary(line []byte, to int) {
	text := line
	if !t.ended {
		text = whole(line)
	}
	t.spans = t.s.secrets(text, inProse, &t.left, t.spans[:0])
	at := t.out
	if len(t.spans) > 0 {
		for _, sp := range merged(t.spans) {
			if sp.to <= at || sp.from >= to || inMark(line, sp) {
				continue
			}
			from := max(sp.from, at)
			t.buf = append(t.buf, line[at:from]...)
			t.buf = t.s.appendOther(t.buf, line[sp.from:sp.to], &owner{of: &t.stray})
			at = sp.to
			to = max(to, at)
		}
	}
	if at < to {
		t.buf = append(t.buf, line[at:to]...)
	}
	t.out = to
	if t.out > maxHeld {
		cut := t.out - lineContext
		for n := 0; n < utf8.UTFMax && !utf8.RuneStart(t.line[cut]); n++ {
			cut++
		}
		out := t.out - cut
		t.drop(cut)
		t.out = out
	}
}

// whole gives text without the character at its end whose rest is still to
// come: by that it would be no text.
func whole(text []byte) []byte {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if at := len(text) - n; utf8.RuneStart(text[at]) {
			if !utf8.FullRune(text[at:]) {
				return text[:at]
			}
			break
		}
	}
	return text
}

var (
	keyBegin = []byte("-----BEGIN ")
	keyEnd   = []byte("-----END ")
	keyLabel = []byte("PRIVATE KEY")
	keyBlock = []byte(" BLOCK")
)

// keyBody masks what before to belongs to the private key that has begun, and
// gives how much was dropped. A line has one mark, however it comes: what is
// more than can be held of it is dropped unseen.
func (t *Text) keyBody(to int) (dropped int) {
	text := t.line[:to]
	if i := bytes.Index(text, keyEnd); i >= 0 {
		t.keyMark(text[:i])
		t.drop(i)
		t.key = 0
		return i
	}
	body := bytes.TrimRight(text, "\r\n")
	t.keyMark(body)
	if bytes.HasSuffix(text, []byte("\n")) {
		t.buf = append(t.buf, text[len(body):]...)
		t.key--
		t.drop(to)
		return to
	}
	keep := min(to, len(keyEnd)-1) // it may have begun
	t.drop(to - keep)
	return to - keep
}

func (t *Text) keyMark(body []byte) {
	if len(body) > 0 && !t.shown {
		t.buf = t.s.appendOther(t.buf, body, &owner{of: &t.stray})
		t.shown = true
	}
}

// keyBegins gives where in text a private key begins that doesn't end in it,
// and where its body does, or -1.
func keyBegins(text []byte) (begin, body int) {
	for at := 0; ; {
		i := bytes.Index(text[at:], keyBegin)
		if i < 0 {
			return -1, -1
		}
		begin = at + i
		at = begin + len(keyBegin)
		body = labelEnd(text, at)
		if body < 0 {
			continue // it is a certificate, say
		}
		end := bytes.Index(text[body:], keyEnd)
		if end < 0 {
			return begin, body
		}
		// Less than a whole last line doesn't end it for a rule of formats.
		if at = labelEnd(text, body+end+len(keyEnd)); at < 0 || !bytes.HasSuffix(text[:at], keyEnd[:5]) {
			return begin, body
		}
	}
}

// maxLabel bounds what stands before PRIVATE KEY in a key's first line.
const maxLabel = 100

// labelEnd gives where the line of dashes ends whose label is a private key's,
// or -1.
func labelEnd(text []byte, at int) int {
	i := bytes.Index(text[at:min(len(text), at+maxLabel+len(keyLabel))], keyLabel)
	if i < 0 || bytes.ContainsAny(text[at:at+i], "\r\n") || bytes.Contains(text[at:at+i], keyEnd[:5]) {
		return -1
	}
	at += i + len(keyLabel)
	if bytes.HasPrefix(text[at:], keyBlock) {
		at += len(keyBlock)
	}
	if at < len(text) && text[at] != '-' {
		return -1
	}
	for n := 0; n < 5 && at < len(text) && text[at] == '-'; n++ {
		at++
	}
	return at
}

// safe gives up to where the line that isn't ended can be passed on: to where a
// known value or a private key may begin, and to the beginning of the last word
// where that looks like a credential, or like what is assigned to one's name.
// Of a private key nothing is, unless more is held than may be.
func (t *Text) safe(full bool) int {
	begin, _ := keyBegins(t.line)
	switch {
	case full && (t.key > 0 || begin >= 0 && begin <= t.out):
		return len(t.line) // masked
	case t.key > 0:
		return t.out
	}
	n := t.s.known.begins(t.line)
	if begin >= 0 {
		n = min(n, begin)
	}
	word := bytes.LastIndexAny(t.line, " \t\r") + 1
	if full && len(t.line)-word > maxHeld {
		word = bytes.LastIndexAny(t.line, "\"',;&") + 1 // JSON in one line, say
	}
	last := t.line[word:]
	hold := false
	switch {
	case len(last) == 0:
		// A name may stand before: "password: ".
	case len(last) > maxHeld:
	case bytes.IndexByte(last, '=') >= 0, bytes.Contains(last, schemeEnd), len(last) >= 4 && t.s.detect.mayBegin(last):
		hold = true
	}
	if !hold && len(last) > 0 && len(last) <= maxHeld {
		t.spans = t.s.rules.assignments(t.line, inConfig, t.spans[:0])
		for _, sp := range t.spans {
			hold = hold || sp.to == len(t.line)
		}
	}
	if hold {
		n = min(n, word)
	}
	return max(n, t.out)
}

// mayBegin reports whether a keyword of a known format stands in text.
func (d *detectors) mayBegin(text []byte) bool {
	for i := 0; i+3 <= len(text); i++ {
		if !d.all.has(trigram(text[i:])) {
			continue
		}
		for _, k := range d.words[trigram(text[i:])] {
			if len(k.text) <= len(text)-i && bytes.EqualFold(text[i:i+len(k.text)], k.text) {
				return true
			}
		}
	}
	return false
}

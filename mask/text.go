package mask

import (
	"bytes"
	"io"
)

const (
	// maxHeld bounds what is held back of a text whose line goes on.
	maxHeld = 16 << 10
	// lineContext is how much of a long line is kept to recognise what follows.
	lineContext = 4 << 10
	// maxKeyLines bounds how many lines a private key may have.
	maxKeyLines = 400
)

// Text masks free text that comes in pieces: a log, what a command prints.
// It is used by one goroutine at a time.
type Text struct {
	s   *Scoped
	dst io.Writer

	line  []byte // the line that isn't ended, from its beginning or a part of it
	out   int    // what of it has been passed on
	key   int    // lines left of a private key that has begun; 0: none
	left  budget
	spans []span
	buf   []byte
}

// Text gives a writer that masks what is written to it and passes it to dst. A
// value is found across any boundary between two writes: a line that isn't
// ended is held back until it is, or Flush, or Close.
func (s *Scoped) Text(dst io.Writer) *Text { return &Text{s: s, dst: dst, left: freeLooks} }

// Write takes the next piece. All of it is taken unless dst fails.
func (t *Text) Write(p []byte) (int, error) {
	n := len(p)
	t.left.more(n)
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
		t.line, t.out = t.line[:0], 0
	}
	if len(t.line)-t.out > maxHeld {
		t.pass(t.safe())
	}
	return n, t.send()
}

// Flush passes on what is held back, but for what looks like the beginning of a
// secret. It is for what waits for an answer, such as a prompt.
func (t *Text) Flush() error {
	t.buf = t.buf[:0]
	t.pass(t.safe())
	return t.send()
}

// Held reports whether something is held back.
func (t *Text) Held() bool { return len(t.line) > t.out }

// Close masks and passes on what is still held back. It doesn't close dst.
func (t *Text) Close() error {
	t.buf = t.buf[:0]
	t.pass(len(t.line))
	t.line, t.out = t.line[:0], 0
	return t.send()
}

func (t *Text) send() error {
	if len(t.buf) == 0 {
		return nil
	}
	_, err := t.dst.Write(t.buf)
	return err
}

// pass takes what of the line stands before to.
func (t *Text) pass(to int) {
	if to <= t.out {
		return
	}
	if t.privateKey(to) {
		return
	}
	t.spans = t.s.secrets(t.line, inProse, &t.left, t.spans[:0])
	at := t.out
	if len(t.spans) > 0 {
		for _, sp := range merged(t.spans) {
			if sp.to <= at || sp.from >= to || inMark(t.line, sp) {
				continue
			}
			from := max(sp.from, at)
			t.buf = append(t.buf, t.line[at:from]...)
			t.buf = t.s.appendOther(t.buf, t.line[sp.from:sp.to], owner{})
			at = sp.to
			to = max(to, at)
		}
	}
	t.buf = append(t.buf, t.line[at:to]...)
	t.out = to
	if t.out > maxHeld {
		cut := t.out - lineContext
		t.line = t.line[:copy(t.line, t.line[cut:])]
		t.out -= cut
	}
}

// privateKey masks the lines of a private key (RFC 7468) from its first to its
// last. False means that there is none here.
func (t *Text) privateKey(to int) bool {
	switch {
	case t.key == 0:
		i := bytes.Index(t.line, []byte("-----BEGIN "))
		if i < 0 || !bytes.Contains(t.line[i:], []byte("PRIVATE KEY")) || bytes.Contains(t.line[i:], []byte("-----END ")) {
			return false
		}
		t.key = maxKeyLines
		t.buf = append(t.buf, t.line[t.out:to]...)
	case bytes.Contains(t.line, []byte("-----END ")):
		t.key = 0
		t.buf = append(t.buf, t.line[t.out:to]...)
	default:
		t.key--
		body := bytes.TrimRight(t.line[t.out:to], "\r\n")
		if len(body) > 0 {
			t.buf = t.s.appendOther(t.buf, body, owner{})
		}
		t.buf = append(t.buf, t.line[t.out+len(body):to]...)
	}
	t.out = to
	return true
}

// safe gives up to where the line that isn't ended can be passed on: to where a
// known value may begin, and to the beginning of the last word where that looks
// like a credential, or like what is assigned to one's name.
func (t *Text) safe() int {
	n := t.s.known.begins(t.line, 4)
	word := bytes.LastIndexAny(t.line, " \t\r") + 1
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
	if t.key > 0 {
		return t.out
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

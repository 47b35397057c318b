package proxy

import (
	"context"
	"net"
	"sync"
)

// readAheadBytes is how much of a long answer is read by one system call.
const readAheadBytes = 64 << 10

// readAhead is a connection to the API server. TLS reads about a record at a
// time; where more is there, this takes it along. Between long answers it holds
// no buffer.
type readAhead struct {
	net.Conn

	buf      *[readAheadBytes]byte // nil: nothing was taken along
	from, to int
	more     bool // the last read was filled
}

var aheadPool = sync.Pool{New: func() any { return new([readAheadBytes]byte) }}

// Read gives what was taken along, or what comes.
func (c *readAhead) Read(p []byte) (int, error) {
	if c.buf == nil {
		if !c.more || len(p) == 0 || len(p) >= readAheadBytes {
			n, err := c.Conn.Read(p)
			c.more = n > 0 && n == len(p)
			return n, err
		}
		buf := aheadPool.Get().(*[readAheadBytes]byte) //nolint:forcetypeassert // the pool holds nothing else
		n, err := c.Conn.Read(buf[:])
		c.more = n == readAheadBytes
		if n <= 0 {
			aheadPool.Put(buf)
			return n, err
		}
		c.buf, c.from, c.to = buf, 0, n // an error comes again
	}
	n := copy(p, c.buf[c.from:c.to])
	if c.from += n; c.from == c.to {
		aheadPool.Put(c.buf)
		c.buf = nil
	}
	return n, nil
}

type dialer = func(ctx context.Context, network, address string) (net.Conn, error)

// readingAhead has the connections that dial makes read ahead.
func readingAhead(dial dialer) dialer {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &readAhead{Conn: c}, nil
	}
}

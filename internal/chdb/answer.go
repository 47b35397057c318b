package chdb

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// answer sends one query's result, chunk by chunk, as the client asked for it.
type answer struct {
	w      http.ResponseWriter
	p      *params
	format string
	out    io.Writer
	coder  flusher // nil when not compressed
	tag    string  // frames an error after the first byte
	begun  bool
	held   []byte // with wait_end_of_query, all of it
}

func (a *answer) begin() error {
	a.begun = true
	h := a.w.Header()
	h.Set("X-ClickHouse-Format", headerSafe(a.format))
	h.Set("Content-Type", contentType(a.format))
	a.tag = strings.ToLower(rand.Text()[:16])
	h.Set("X-ClickHouse-Exception-Tag", a.tag)
	a.out = a.w
	if a.p.compress {
		a.coder = newBlockWriter(a.w, a.p.method)
		a.out = a.coder
		return nil
	}
	name, coder, err := encodeAnswer(a.w, a.p.acceptEncoding)
	if err != nil || coder == nil {
		return err
	}
	h.Set("Content-Encoding", name)
	h.Add("Vary", "Accept-Encoding")
	a.coder, a.out = coder, coder
	return nil
}

// errClientGone: the rest of the answer has no reader.
var errClientGone = errors.New("client is gone")

func (a *answer) chunk(b []byte) error {
	if strings.EqualFold(a.format, "Native") {
		var err error
		if b, err = reencode(b, a.p.revision); err != nil {
			return refuse(codeNotImplemented, "%v", err)
		}
	}
	if a.p.buffered {
		if len(a.held)+len(b) > maxBufferedBytes {
			return refuse(codeResultTooBig, "the answer is over %d bytes: leave out wait_end_of_query to have it streamed", maxBufferedBytes)
		}
		a.held = append(a.held, b...)
		return nil
	}
	return a.send(b)
}

func (a *answer) send(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if !a.begun {
		if err := a.begin(); err != nil {
			return err
		}
	}
	if _, err := a.out.Write(b); err != nil {
		return errClientGone
	}
	return nil
}

// end finishes the answer. With an error it returns it when nothing was sent
// yet; else it sends it framed as ClickHouse does and cuts the connection, so
// that no client takes the part for the whole.
func (a *answer) end(err error) error {
	if err == nil && len(a.held) > 0 {
		err = a.send(a.held)
	}
	if !a.begun {
		if err == nil { // an empty answer
			h := a.w.Header()
			h.Set("X-ClickHouse-Format", headerSafe(a.format))
			h.Set("Content-Type", contentType(a.format))
			h.Set("Content-Length", "0")
			a.w.WriteHeader(http.StatusOK)
		}
		return err
	}
	if err == nil {
		if a.coder != nil && a.coder.Close() != nil {
			panic(http.ErrAbortHandler)
		}
		return nil
	}
	if !errors.Is(err, errClientGone) {
		text := err.Error()
		_, werr := fmt.Fprintf(a.out, "\r\n__exception__\r\n%s\r\n%s\n%d %s\r\n__exception__\r\n", a.tag, text, len(text)+1, a.tag)
		if a.coder != nil && werr == nil {
			werr = a.coder.Close()
		}
		if f, ok := a.w.(http.Flusher); ok && werr == nil {
			f.Flush()
		}
	}
	panic(http.ErrAbortHandler)
}

package proxy

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/tipstaff-dev/tipstaff/mask"
)

// quiet is how long a text must be silent until what may be a prompt is passed
// on although its line hasn't ended.
const quiet = 100 * time.Millisecond

// output is a text that is masked as it comes: a log, a stream of a command.
type output struct {
	mu    *sync.Mutex // held while send is called
	text  *mask.Text
	timer *time.Timer
	broke error // of a flush that panicked: what text holds is anything
}

// newOutput gives an output whose masked bytes send takes, with mu held.
func newOutput(mu *sync.Mutex, scoped *mask.Scoped, send func(data []byte) error) *output {
	o := &output{mu: mu, text: scoped.Text(writerFunc(send))}
	o.timer = time.AfterFunc(time.Hour, o.flush)
	o.timer.Stop()
	return o
}

// write takes what comes next.
func (o *output) write(b []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.broke != nil {
		return o.broke
	}
	if _, err := o.text.Write(b); err != nil {
		return err
	}
	if o.text.Held() {
		o.timer.Reset(quiet)
	} else {
		o.timer.Stop()
	}
	return nil
}

func (o *output) flush() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := guarded(o.text.Flush); errors.Is(err, errPanicked) {
		o.broke = err
	} // where it fails otherwise the next write does too
}

// drain passes on what is held back: nothing that belongs to it follows.
func (o *output) drain() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.timer.Stop()
	if o.broke != nil {
		return o.broke
	}
	return o.text.Close()
}

type writerFunc func([]byte) error

// Write calls the function.
func (f writerFunc) Write(b []byte) (int, error) { return len(b), f(b) }

// maskText replaces the answer's body, a text, by its masked form as it comes.
func (p *Proxy) maskText(resp *http.Response, scoped *mask.Scoped) {
	resp.Header.Del("Content-Length")
	resp.ContentLength = -1
	src, ctx := resp.Body, resp.Request.Context()
	pr, pw := io.Pipe()
	go func() {
		err := maskTextInto(pw, &untilCut{ctx, src}, scoped)
		if err != nil && ctx.Err() == nil {
			p.log.Warn("a log was cut", "error", err)
		}
		_ = pw.CloseWithError(err) // never fails
	}()
	resp.Body = &textBody{PipeReader: pr, src: src}
}

func maskTextInto(dst io.Writer, src io.Reader, scoped *mask.Scoped) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("the masker panicked") // what with may quote the answer
		}
	}()
	o := newOutput(new(sync.Mutex), scoped, func(data []byte) error {
		_, err := dst.Write(data)
		return err
	})
	buf := make([]byte, bufferBytes)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if err := o.write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return o.drain()
		case err != nil:
			o.timer.Stop()
			return fmt.Errorf("the log broke off: %w", err)
		}
	}
}

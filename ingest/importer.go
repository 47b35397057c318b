package ingest

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// importEvents and importBytes bound a batch as the API server's are.
	importEvents = 400
	importBytes  = 4 << 20
	// importTogether is how many batches are under way at once.
	importTogether = 4
	// maxLineBytes is the longest line, with room for what stands around an event.
	maxLineBytes = maxBodyBytes - 1<<10
	// maxLineErrors bounds how many lines are named; all are counted.
	maxLineErrors = 20
	// sendTimeout bounds one try; the receiver answers within 10 s.
	sendTimeout = time.Minute
)

// sendAgain is when it is tried again with a receiver that can't store, at last
// every 30 s.
var sendAgain = wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 10, Cap: 30 * time.Second}

// sendWithin is how long such a receiver is waited for.
const sendWithin = 10 * time.Minute

// Importer sends the events of API servers' audit logs to a receiver, as an API
// server sends them. What is there already, it adds nothing to.
type Importer struct {
	// URL is the receiver's with the cluster, https://host:port/audit/<cluster>.
	URL string
	// Client presents the certificate that the receiver asks for.
	Client *http.Client

	again wait.Backoff // another in tests
}

// Imported is what was done of a log.
type Imported struct {
	// Lines are those read, Events those the receiver has stored or put into
	// quarantine.
	Lines  int `json:"lines"`
	Events int `json:"events"`
	// Refused counts what couldn't be taken, lines and events in lines; Faults are
	// the first of it.
	Refused int         `json:"refused"`
	Faults  []LineError `json:"faults,omitempty"`
}

// Import reads a log, which may be compressed with gzip. Each line is an
// audit.k8s.io event or EventList, or a record of one by Amazon CloudWatch, Azure
// Monitor or Google Cloud Logging. Lines that are neither are counted and left
// out. An error means that the log couldn't be read to its end, or that the
// receiver refuses what is sent or is away for more than ten minutes; what it has
// taken until then is in done.
func (im *Importer) Import(ctx context.Context, log io.Reader) (done Imported, err error) {
	in := bufio.NewReaderSize(log, 64<<10)
	if magic, _ := in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) { // a shorter one is none
		zr, err := gzip.NewReader(in)
		if err != nil {
			return done, fmt.Errorf("unpack the log: %w", err)
		}
		in = bufio.NewReaderSize(zr, 64<<10)
	}
	r := &importing{im: im, done: &done}
	r.g, ctx = errgroup.WithContext(ctx)
	r.g.SetLimit(importTogether)
	read := r.read(ctx, in)
	if err := r.g.Wait(); err != nil {
		return done, err
	}
	return done, read
}

// importing is an import under way.
type importing struct {
	im *Importer
	g  *errgroup.Group

	mu   sync.Mutex
	done *Imported
}

// numbered is an event and the line it stands in.
type numbered struct {
	line  int
	event jsontext.Value
}

func (r *importing) read(ctx context.Context, in *bufio.Reader) error {
	var batch []numbered
	size := 0
	flush := func() {
		if sent := batch; len(sent) > 0 {
			r.g.Go(func() error { return r.send(ctx, sent) })
		}
		batch, size = nil, 0
	}
	defer flush()
	for n := 1; ctx.Err() == nil; n++ {
		line, err := readLine(in)
		if errors.Is(err, errLong) {
			r.refuse(n, err.Error())
			r.count(1, 0)
			continue
		}
		if len(bytes.TrimSpace(line)) > 0 {
			r.count(1, 0)
			events, bad := eventsOfLine(line)
			if bad != nil {
				r.refuse(n, bad.Error())
			}
			for _, ev := range events {
				if cap(line) > 2*len(ev) {
					ev = bytes.Clone(ev) // the line has more than it
				}
				if size += len(ev) + 1; len(batch) == importEvents || size > importBytes {
					flush()
					size = len(ev) + 1
				}
				batch = append(batch, numbered{n, ev})
			}
		}
		if err == io.EOF { //nolint:errorlint // readLine passes it on as it is
			return nil
		}
		if err != nil {
			return fmt.Errorf("the log can't be read on after line %d: %w", n, err)
		}
	}
	return ctx.Err()
}

var errLong = fmt.Errorf("it is longer than %d MiB", maxLineBytes>>20)

// readLine reads a line of its own, which may be the last one without an end. One
// that is too long is passed over.
func readLine(in *bufio.Reader) (line []byte, err error) {
	long := false
	for {
		part, err := in.ReadSlice('\n')
		if len(line)+len(part) > maxLineBytes {
			line, long = nil, true
		}
		if !long {
			line = append(line, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if long && (err == nil || errors.Is(err, io.EOF)) {
			return nil, errLong // at the end the next call says that
		}
		return line, err
	}
}

func (r *importing) count(lines, events int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done.Lines += lines
	r.done.Events += events
}

func (r *importing) refuse(line int, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done.Refused++
	if len(r.done.Faults) < maxLineErrors {
		r.done.Faults = append(r.done.Faults, LineError{line, why})
	}
}

// send has the receiver store the events. Of what it refuses for what it is, the
// halves are tried.
func (r *importing) send(ctx context.Context, events []numbered) error {
	list := make([]jsontext.Value, len(events))
	for i, ev := range events {
		list[i] = ev.event
	}
	code, why, err := r.im.post(ctx, join(list))
	switch {
	case err != nil:
		return err
	case code == http.StatusOK:
		r.count(0, len(events))
		return nil
	case code != http.StatusBadRequest && code != http.StatusRequestEntityTooLarge:
		return fmt.Errorf("the receiver at %s refuses: %d %s", r.im.URL, code, why)
	case len(events) == 1:
		r.refuse(events[0].line, "the receiver refuses it: "+why)
		return nil
	}
	half := len(events) / 2
	if err := r.send(ctx, events[:half]); err != nil {
		return err
	}
	return r.send(ctx, events[half:])
}

// post sends a batch until the receiver has answered that it is stored, or that it
// never will be.
func (im *Importer) post(ctx context.Context, body []byte) (code int, why string, err error) {
	var last error
	waiting, cancel := context.WithTimeout(ctx, sendWithin)
	defer cancel()
	again := im.again
	if again.Duration == 0 {
		again = sendAgain
	}
	err = again.DelayFunc().Until(waiting, true, true, func(ctx context.Context) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, sendTimeout)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, im.URL, bytes.NewReader(body))
		if err != nil {
			return false, err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := im.Client.Do(req)
		if err != nil {
			last = err
			return false, nil
		}
		defer func() { _ = resp.Body.Close() }() // read to its end, or as far as it is wanted
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		code, why = resp.StatusCode, strings.TrimSpace(firstLine(string(text)))
		if code == http.StatusTooManyRequests || code >= http.StatusInternalServerError {
			last = fmt.Errorf("%d %s", code, why)
			return false, nil
		}
		return true, nil
	})
	if err != nil && last != nil && ctx.Err() == nil {
		err = last
	}
	if err != nil {
		return 0, "", fmt.Errorf("send to the receiver at %s: %w", im.URL, err)
	}
	return code, why, nil
}

package proxy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"strconv"
	"sync"

	"github.com/klauspost/compress/gzip"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/tipstaff-dev/tipstaff/mask"
)

// bufferBytes is how much of a list is gathered before it is passed on.
const bufferBytes = 32 << 10

// maskAnswer replaces the answer's body by its masked form, read as it comes. zip
// says that the client takes it compressed.
func (p *Proxy) maskAnswer(resp *http.Response, scoped *mask.Scoped, info *request.RequestInfo, zip bool) error {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		_ = resp.Body.Close() // nothing of it is wanted
		return fmt.Errorf("the API server switched protocols unasked")
	}
	if resp.Request.Method == http.MethodHead {
		// The length of an answer that isn't sent says how long the values are.
		resp.Header.Del("Content-Length")
		return nil
	}
	if resp.Body == http.NoBody || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		return nil
	}
	mt, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err == nil && logs(info) && resp.StatusCode == http.StatusOK && resp.Header.Get("Content-Encoding") == "" && mt != "application/json" {
		p.maskText(resp, scoped)
		return nil
	}
	if err != nil || mt != "application/json" {
		return p.replaceAnswer(resp)
	}
	switch resp.Header.Get("Content-Encoding") {
	case "", "identity":
	case "gzip":
		unzip(resp)
	default:
		return p.replaceAnswer(resp)
	}
	if n := resp.ContentLength; n >= 0 && n <= smallBytes && info.Verb != "watch" {
		return p.maskSmall(resp, scoped, info)
	}
	body := p.maskStream(resp, scoped, info)
	resp.Body = body
	if !zip || info.Verb == "watch" {
		return nil
	}
	if body.ahead() {
		resp.Header.Set("Content-Encoding", "gzip")
		resp.Header.Add("Vary", "Accept-Encoding")
		resp.Body = zipped(body)
	} else if len(body.rest) == 0 && body.err != nil { // nothing has gone out
		ctx := resp.Request.Context()
		if _ = body.Close(); ctx.Err() != nil {
			return ctx.Err()
		}
		return p.replaceAnswer(resp)
	}
	return nil
}

// maskWarnings masks what warnings quote, whoever added them (RFC 9111 section
// 5.5; apiserver, warning).
func maskWarnings(h http.Header, scoped *mask.Scoped) {
	for i, v := range h["Warning"] {
		if masked, ok := scoped.ValueOf(mask.Ref{}, v).(string); ok {
			h["Warning"][i] = masked
		}
	}
}

// smallBytes is the length up to which an answer is masked before it begins.
const smallBytes = 64 << 10

// buffers are used again: they are most of what a small answer costs.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// pooled is a body that gives its buffer back.
type pooled struct {
	*bytes.Buffer
	once sync.Once
}

// Close ends the reading.
func (b *pooled) Close() error {
	b.once.Do(func() {
		buf := b.Buffer
		b.Buffer = new(bytes.Buffer)
		buf.Reset()
		buffers.Put(buf)
	})
	return nil
}

// maskSmall replaces the answer's body, whose length is known and small, by its
// masked form.
func (p *Proxy) maskSmall(resp *http.Response, scoped *mask.Scoped, info *request.RequestInfo) error {
	out := buffers.Get().(*bytes.Buffer) //nolint:forcetypeassert // the pool holds nothing else
	src := resp.Body
	err := mask1(out, &untilCut{resp.Request.Context(), src}, scoped, info)
	_ = src.Close() // all that is wanted has been read
	body := &pooled{Buffer: out}
	if err != nil {
		_ = body.Close() // never fails
		if cutOf(resp.Request.Context()) != nil || resp.Request.Context().Err() != nil {
			return resp.Request.Context().Err()
		}
		p.log.Warn("an answer could not be masked", "resource", info.Resource, "error", err)
		return p.replaceAnswer(resp)
	}
	resp.Body, resp.ContentLength = body, int64(out.Len())
	resp.Header.Set("Content-Length", strconv.Itoa(out.Len()))
	return nil
}

// mask1 masks src into dst. A panic would be a bug of ours.
func mask1(dst io.Writer, src io.Reader, scoped *mask.Scoped, info *request.RequestInfo) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("the masker panicked") // what with may quote the answer
		}
	}()
	return scoped.JSONOf(mask.Ref{Resource: info.Resource, Subresource: info.Subresource}, dst, src)
}

// maskStream gives the masked form of the answer's body, made as it is read.
func (p *Proxy) maskStream(resp *http.Response, scoped *mask.Scoped, info *request.RequestInfo) *maskedBody {
	resp.Header.Del("Content-Length")
	resp.ContentLength = 0 // httputil.ReverseProxy flushes after every write where it is -1
	if info.Verb == "watch" {
		resp.ContentLength = -1
	}
	src, ctx := resp.Body, resp.Request.Context()
	// Only a watch has a last word after its beginning: what else is cut is broken off.
	lastWord := func() []byte {
		if c := cutOf(ctx); c != nil && info.Verb == "watch" && resp.StatusCode == http.StatusOK {
			return lastEvent(c.status)
		}
		return nil
	}
	body := &maskedBody{src: src}
	body.next, body.stop = iter.Pull(func(yield func([]byte) bool) {
		err := maskInto(yielded(yield), &untilCut{ctx, src}, scoped, info, lastWord)
		if err != nil && !errors.Is(err, errUnread) && ctx.Err() == nil {
			// The reader is cut off here: what was buffered is whole values, or
			// items that were masked, but their end would look like the list's.
			p.log.Warn("answer cut: it could not be masked", "resource", info.Resource, "error", err)
		}
		body.err = err
	})
	return body
}

// errUnread says that nobody reads the answer any more.
var errUnread = errors.New("the client reads no more")

// yielded passes each write to whoever reads the answer, and goes on when all of
// it has been read.
type yielded func([]byte) bool

// Write passes b on.
func (y yielded) Write(b []byte) (int, error) {
	if !y(b) {
		return 0, errUnread
	}
	return len(b), nil
}

var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, bufferBytes) }}

// maskInto masks src into dst. A panic would be a bug of ours; what with may
// quote the answer. Where src breaks off between two values, lastWord, if there
// is any, ends dst.
func maskInto(dst io.Writer, src io.Reader, scoped *mask.Scoped, info *request.RequestInfo, lastWord func() []byte) error {
	buf := writers.Get().(*bufio.Writer) //nolint:forcetypeassert // the pool holds nothing else
	buf.Reset(dst)
	defer func() {
		buf.Reset(nil)
		writers.Put(buf)
	}()
	out := &valueWriter{buf: buf}
	err := mask1(out, src, scoped, info)
	if last := lastWord(); err != nil && !out.within && last != nil {
		_, err = out.Write(last)
	}
	if err != nil {
		return err
	}
	return out.buf.Flush()
}

// valueWriter passes on what is buffered when the masker has finished a value.
type valueWriter struct {
	buf    *bufio.Writer
	within bool // a value has begun and not ended
}

// Write takes a part of a value.
func (v *valueWriter) Write(b []byte) (int, error) {
	v.within = true
	return v.buf.Write(b)
}

// Flush is what mask calls after each value; an error comes up at the next write.
func (v *valueWriter) Flush() {
	v.within = false
	_ = v.buf.Flush() // bufio keeps the error
}

// maskedBody is an answer that is masked while it is read, in the reader's own
// goroutine's turn.
type maskedBody struct {
	src  io.Closer
	next func() ([]byte, bool)
	stop func()
	rest []byte // of what was passed on last
	err  error  // how it ended
}

// Read gives what has been masked.
func (b *maskedBody) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		part, more := b.next()
		if !more {
			if b.err != nil {
				return 0, b.err
			}
			return 0, io.EOF
		}
		b.rest = part
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// ahead has the first part masked before it is read, and reports whether that
// fills a buffer: then more follows.
func (b *maskedBody) ahead() bool {
	b.rest, _ = b.next() // at the end Read says so
	return len(b.rest) >= bufferBytes
}

// unzip has the answer's body unpacked as it is read. The API server compresses
// long lists in less time than it takes to send them as they are. How much comes
// out is not known before, so it is never taken for a small one.
func unzip(resp *http.Response) {
	resp.Header.Del("Content-Encoding")
	resp.Header.Del("Content-Length")
	resp.ContentLength = -1
	resp.Body = &unzippedBody{src: resp.Body}
}

// unzippedBody is what a compressed answer stands for.
type unzippedBody struct {
	src io.ReadCloser
	zr  *gzip.Reader // nil before the first byte and after the last
	err error        // how it ended
}

var unzippers = sync.Pool{New: func() any { return new(gzip.Reader) }}

// Read gives what has been unpacked.
func (u *unzippedBody) Read(p []byte) (n int, err error) {
	if u.err != nil {
		return 0, u.err
	}
	if u.zr == nil {
		u.zr = unzippers.Get().(*gzip.Reader) //nolint:forcetypeassert // the pool holds nothing else
		err = u.zr.Reset(u.src)
		if err == io.EOF { //nolint:errorlint // passed on by gzip as it is: not even a header came
			err = io.ErrUnexpectedEOF
		}
	}
	if err == nil {
		n, err = u.zr.Read(p)
	}
	if err != nil {
		unzippers.Put(u.zr)
		u.zr, u.err = nil, err
	}
	return n, err
}

// Close ends the reading.
func (u *unzippedBody) Close() error { return u.src.Close() }

// zippedBody is an answer that is compressed as it is masked.
type zippedBody struct {
	*maskedBody
	zw    *gzip.Writer
	out   bytes.Buffer
	begun bool
}

// zippers compress as fast as they can: between a proxy and its clients a network
// is seldom slower than that.
var zippers = sync.Pool{New: func() any {
	zw, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil {
		panic(err) // there is such a level
	}
	return zw
}}

func zipped(b *maskedBody) *zippedBody {
	z := &zippedBody{maskedBody: b, zw: zippers.Get().(*gzip.Writer)} //nolint:forcetypeassert // the pool holds nothing else
	z.zw.Reset(&z.out)
	return z
}

// Read gives what has been compressed. Of what breaks off the end is missing.
func (z *zippedBody) Read(p []byte) (int, error) {
	for z.out.Len() == 0 {
		z.out.Reset()
		if z.zw == nil {
			return 0, io.EOF
		}
		part, more := z.rest, true
		if z.rest = nil; len(part) == 0 {
			part, more = z.next()
		}
		if more {
			_, _ = z.zw.Write(part) // to a buffer
			if !z.begun {
				_ = z.zw.Flush() // what comes first goes out first
				z.begun = true
			}
			continue
		}
		if z.err != nil {
			return 0, z.err
		}
		_ = z.zw.Close() // to a buffer
		z.letGo()
	}
	return z.out.Read(p)
}

// letGo gives the compressor back.
func (z *zippedBody) letGo() {
	if z.zw != nil {
		z.zw.Reset(nil)
		zippers.Put(z.zw)
		z.zw = nil
	}
}

// Close ends the masking and the connection to the API server.
func (z *zippedBody) Close() error {
	z.letGo()
	return z.maskedBody.Close()
}

// Close ends the masking and the connection to the API server.
func (b *maskedBody) Close() error {
	err := b.src.Close()
	b.stop()
	return err
}

// textBody ends the masker's goroutine and the connection to the API server
// when the client goes away.
type textBody struct {
	*io.PipeReader
	src io.Closer
}

// Close closes both ends.
func (b *textBody) Close() error {
	_ = b.PipeReader.Close() // never fails
	return b.src.Close()
}

// replaceAnswer puts a Status in the place of an answer that can't be masked.
// An error keeps its code; its text is dropped, it may quote an object.
func (p *Proxy) replaceAnswer(resp *http.Response) error {
	_ = resp.Body.Close() // nothing of it is wanted
	code, message := resp.StatusCode, "the API server's answer is no JSON, so it can't be masked: it was not passed on"
	if code < http.StatusBadRequest {
		code = http.StatusBadGateway
	}
	body, err := json.Marshal(statusOf(&apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: int32(code), Message: message,
	}}))
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	retry, audit := resp.Header.Get("Retry-After"), resp.Header.Get("Audit-Id")
	resp.StatusCode, resp.Status = code, strconv.Itoa(code)+" "+http.StatusText(code)
	resp.Header = http.Header{"Content-Type": {"application/json"}}
	if retry != "" {
		resp.Header.Set("Retry-After", retry)
	}
	if audit != "" {
		resp.Header.Set("Audit-Id", audit)
	}
	resp.ContentLength = int64(len(body))
	resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

// statusOf is the error as the API server itself would send it.
func statusOf(err *apierrors.StatusError) *metav1.Status {
	st := err.Status()
	st.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	return &st
}

func writeStatus(w http.ResponseWriter, err *apierrors.StatusError) {
	st := statusOf(err)
	body, merr := json.Marshal(st)
	if merr != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(st.Code))
	_, _ = w.Write(body) // a client that is gone needs no answer
}

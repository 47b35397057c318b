package chdb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	// maxBodyBytes bounds a request's body, before and after decompression.
	maxBodyBytes = 2 << 30
	// maxQueryBytes bounds a query's text without its data. The engine itself
	// stops at max_query_size, 256 KiB unless the caller sets it.
	maxQueryBytes = 8 << 20
	// headBytes is how much of the body is looked at to tell text from data.
	headBytes = 1 << 20
	// maxBufferedBytes bounds answers held back by wait_end_of_query.
	maxBufferedBytes = 256 << 20
	// maxQueries run at once; more are refused, as max_concurrent_queries does.
	maxQueries = 64
	// killEvery: a query of a client that left is killed until it ends.
	killEvery = 100 * time.Millisecond
)

// handler is the HTTP interface, inside the engine's process.
type handler struct {
	lib     *library
	data    string // data directory
	tmp     string // bodies of inserts
	zone    string
	name    string
	version string
	slots   chan struct{}
	log     *slog.Logger
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/", "/query":
	default:
		http.Error(w, "There is no handle "+strings.ToValidUTF8(r.URL.Path, "?")+": queries go to /", http.StatusNotFound)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost:
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "queries come by GET or POST", http.StatusMethodNotAllowed)
		return
	}
	head := w.Header()
	head.Set("X-ClickHouse-Server-Display-Name", h.name)
	head.Set("X-ClickHouse-Timezone", h.zone)
	if err := h.serve(w, r); err != nil {
		h.fail(w, err)
	}
}

func (h *handler) fail(w http.ResponseWriter, err error) {
	var ex *exception
	if tooBig := new(http.MaxBytesError); errors.As(err, &tooBig) {
		ex = refuse(codeTooLarge, "the body is over %d bytes", tooBig.Limit)
	} else if !errors.As(err, &ex) {
		h.log.Error("request failed", "error", err)
		ex = refuse(codeUnknown, "%v", err)
	}
	(&exception{ex.code, ex.text + " (version " + h.version + ")"}).write(w)
}

// serve answers r, or returns the error when nothing was sent yet.
func (h *handler) serve(w http.ResponseWriter, r *http.Request) error {
	p, err := parseParams(r.URL.Query(), r)
	if err != nil {
		return err
	}
	if p.query == "" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		_, err := io.WriteString(w, "Ok.\n")
		return err
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		return refuse(codeTooMany, "%d queries run already", maxQueries)
	}
	if p.queryID == "" {
		p.queryID = uuid.NewString()
	}
	w.Header().Set("X-ClickHouse-Query-Id", headerSafe(p.queryID))
	sql, st, done, err := h.readQuery(w, r, p)
	if err != nil {
		return err
	}
	defer done()
	if sql == "" {
		return refuse(codeSyntaxError, "Empty query")
	}
	c, err := h.lib.open(h.data)
	if err != nil {
		return err
	}
	defer c.close()
	if p.database != "" {
		if err := c.exec("USE " + quoteName(p.database)); err != nil {
			return err
		}
	}
	mark := uuid.NewString() // finds the query in system.processes
	if p.comment != "" {
		mark = p.comment + " " + mark
	}
	a := &answer{w: w, p: p, format: p.format}
	if st.format != "" && !st.hasData {
		a.format = st.format
	}
	if err := c.exec("SET " + strings.Join(append([]string{"log_comment=" + quote(mark)}, p.set...), ", ")); err != nil {
		return err
	}
	gone := h.killWhenGone(r.Context(), mark)
	err = h.run(c, sql, st, a)
	gone()
	return a.end(err)
}

// run sends the answer of sql to a, by the way that keeps memory bounded.
func (h *handler) run(c *conn, sql string, st statement, a *answer) error {
	native := strings.EqualFold(a.format, "Native")
	switch {
	case st.keyword != "SELECT" && st.keyword != "WITH": // answers little
		return h.whole(c, sql, a)
	case streamable(a.format) && (native || !st.totals):
		return c.stream(sql, a.p.format, a.chunk)
	default:
		return h.spool(c, sql, st, a)
	}
}

func (h *handler) whole(c *conn, sql string, a *answer) error {
	began := time.Now()
	res, err := c.query(sql, a.p.format)
	if err != nil {
		return err
	}
	defer res.free()
	h.summary(res, began, a)
	return a.chunk(res.bytes())
}

// spool runs a SELECT into a file and sends that. The engine's chunks are whole
// documents, which formats with a head or a foot can't be cut into.
func (h *handler) spool(c *conn, sql string, st statement, a *answer) error {
	path := filepath.Join(h.tmp, "answer-"+uuid.NewString())
	defer os.Remove(path) //nolint:errcheck // tmp is emptied at start too
	began := time.Now()
	res, err := c.query(st.intoFile(sql, path, a.p.format), "Null")
	if err != nil {
		return err
	}
	h.summary(res, began, a)
	res.free()
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read an answer back: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	b := make([]byte, maxBlockBytes)
	for {
		n, err := f.Read(b)
		if n > 0 {
			if err := a.chunk(b[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read an answer back: %w", err)
		}
	}
}

func (h *handler) summary(res result, began time.Time, a *answer) {
	l := h.lib
	a.w.Header().Set("X-ClickHouse-Summary", fmt.Sprintf(
		`{"read_rows":"%d","read_bytes":"%d","written_rows":"%d","written_bytes":"%d","elapsed_ns":"%d"}`,
		l.rowsRead(res.r), l.bytesRead(res.r), l.rowsWritten(res.r), l.bytesWritten(res.r), time.Since(began).Nanoseconds()))
}

// killWhenGone ends the marked query when ctx ends first. Call what it returns
// when the query has ended.
func (h *handler) killWhenGone(ctx context.Context, mark string) func() {
	over, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-over:
			return
		case <-ctx.Done():
		}
		c, err := h.lib.open(h.data)
		if err != nil {
			h.log.Warn("a query whose client is gone runs on", "error", err)
			return
		}
		defer c.close()
		tick := time.NewTicker(killEvery)
		defer tick.Stop()
		for {
			if err := c.exec("KILL QUERY WHERE Settings['log_comment'] = " + quote(mark) + " ASYNC"); err != nil {
				h.log.Warn("cannot kill a query whose client is gone", "error", err)
			}
			select {
			case <-over:
				return
			case <-tick.C:
			}
		}
	}()
	return func() { close(over); <-stopped }
}

// readQuery reads the body. An insert's data goes to a file that done removes.
func (h *handler) readQuery(w http.ResponseWriter, r *http.Request, p *params) (sql string, st statement, done func(), err error) {
	done = func() {}
	var body io.Reader = http.NoBody
	if r.ContentLength != 0 {
		if body, err = decodeBody(http.MaxBytesReader(w, r.Body, maxBodyBytes), r, p.decompress); err != nil {
			return "", st, done, err
		}
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/form-data") {
		return "", st, done, refuse(codeNotImplemented, "external tables (multipart bodies) are not served here")
	}
	if p.query != "" {
		body = io.MultiReader(strings.NewReader(p.query+"\n"), body)
	}
	br := bufio.NewReaderSize(body, headBytes)
	head, err := br.Peek(headBytes)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", st, done, bodyError(err)
	}
	st = scan(string(head))
	if !st.hasData {
		all, err := io.ReadAll(io.LimitReader(br, maxQueryBytes+1))
		if err != nil {
			return "", st, done, bodyError(err)
		}
		if len(all) > maxQueryBytes {
			return "", st, done, refuse(codeTooLarge, "the query's text is over %d bytes", maxQueryBytes)
		}
		sql = strings.TrimSpace(string(all))
		st = scan(sql) // its places are places in sql
		if st.hasData {
			return "", st, done, refuse(codeTooLarge, "the INSERT's own text, before its data, is over %d bytes", headBytes)
		}
	}
	switch {
	case st.several:
		return "", st, done, refuse(codeSyntaxError, "Multi-statements are not allowed")
	case st.files:
		return "", st, done, refuse(codeNotImplemented, "INTO OUTFILE and FROM INFILE are not served over HTTP")
	case !st.hasData:
		return sql, st, done, nil
	}
	sql = string(head[:st.dataAt])
	if _, err := br.Discard(st.dataAt); err != nil {
		return "", st, done, bodyError(err)
	}
	path, err := h.keep(br)
	if err != nil {
		return "", st, done, err
	}
	return st.fromFile(sql, path), st, func() { _ = os.Remove(path) }, nil // tmp is emptied at start too
}

func (h *handler) keep(data io.Reader) (path string, err error) {
	f, err := os.CreateTemp(h.tmp, "insert-*")
	if err != nil {
		return "", fmt.Errorf("keep an insert's data: %w", err)
	}
	n, err := io.Copy(f, io.LimitReader(data, maxBodyBytes+1))
	if err != nil {
		err = bodyError(err)
	} else if n > maxBodyBytes {
		err = refuse(codeTooLarge, "the INSERT's data is over %d bytes", maxBodyBytes)
	}
	if cerr := f.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("keep an insert's data (disk full?): %w", cerr)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // tmp is emptied at start too
		return "", err
	}
	return f.Name(), nil
}

func bodyError(err error) error {
	if errors.As(err, new(*http.MaxBytesError)) || errors.As(err, new(*exception)) {
		return err
	}
	if errors.As(err, new(*os.PathError)) {
		return fmt.Errorf("keep an insert's data (disk full?): %w", err)
	}
	return refuse(codeDecompress, "the body cannot be read: %v", err)
}

// headerSafe keeps a caller's text from breaking out of a header line.
func headerSafe(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

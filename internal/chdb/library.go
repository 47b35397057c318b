package chdb

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/ebitengine/purego"
)

// library is libchdb's C interface (chdb.h of the version that tools/chdb pins).
type library struct {
	setSignalHandlers func(enabled int32)
	connect           func(argc int32, argv **byte) *uintptr
	closeConn         func(conn *uintptr)
	query             func(conn uintptr, sql *byte, sqlLen uint64, format *byte, formatLen uint64) uintptr
	streamQuery       func(conn uintptr, sql *byte, sqlLen uint64, format *byte, formatLen uint64) uintptr
	streamFetch       func(conn, result uintptr) uintptr
	streamCancel      func(conn, result uintptr)
	destroy           func(result uintptr)
	buffer            func(result uintptr) *byte
	length            func(result uintptr) uint64
	errorOf           func(result uintptr) string
	rowsRead          func(result uintptr) uint64
	bytesRead         func(result uintptr) uint64
	rowsWritten       func(result uintptr) uint64
	bytesWritten      func(result uintptr) uint64
}

func loadLibrary(path string) (*library, error) {
	h, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return nil, fmt.Errorf("load ClickHouse engine: %w", err)
	}
	l := &library{}
	for name, fn := range map[string]any{
		"chdb_set_signal_handlers_enabled": &l.setSignalHandlers,
		"chdb_connect":                     &l.connect,
		"chdb_close_conn":                  &l.closeConn,
		"chdb_query_n":                     &l.query,
		"chdb_stream_query_n":              &l.streamQuery,
		"chdb_stream_fetch_result":         &l.streamFetch,
		"chdb_stream_cancel_query":         &l.streamCancel,
		"chdb_destroy_query_result":        &l.destroy,
		"chdb_result_buffer":               &l.buffer,
		"chdb_result_length":               &l.length,
		"chdb_result_error":                &l.errorOf,
		"chdb_result_rows_read":            &l.rowsRead,
		"chdb_result_bytes_read":           &l.bytesRead,
		"chdb_result_rows_written":         &l.rowsWritten,
		"chdb_result_bytes_written":        &l.bytesWritten,
	} {
		sym, err := purego.Dlsym(h, name)
		if err != nil {
			return nil, fmt.Errorf("this libchdb.so has no %s: is it the version that tools/chdb pins?", name)
		}
		purego.RegisterFunc(fn, sym)
	}
	l.setSignalHandlers(0) // Go has its own
	return l, nil
}

// conn is one connection to the engine: settings and current database of its
// own. Queries on one connection wait for each other; connections are parallel.
type conn struct {
	lib *library
	c   *uintptr
}

func (l *library) open(dataDir string) (*conn, error) {
	args := []string{"clickhouse", "--path=" + dataDir}
	argv := make([]*byte, len(args))
	var pin runtime.Pinner
	defer pin.Unpin()
	for i, a := range args {
		argv[i] = cstring(a)
		pin.Pin(argv[i])
	}
	pin.Pin(&argv[0])
	c := l.connect(int32(len(argv)), &argv[0]) //nolint:gosec // two
	if c == nil || *c == 0 {
		return nil, errors.New("the ClickHouse engine does not open its data directory: see its lines in the log")
	}
	return &conn{l, c}, nil
}

func (c *conn) close() { c.lib.closeConn(c.c) }

func cstring(s string) *byte {
	b := append([]byte(s), 0)
	return &b[0]
}

// result is one answer, or one chunk of a streamed one. free it.
type result struct {
	lib *library
	r   uintptr
}

func (r result) free() {
	if r.r != 0 {
		r.lib.destroy(r.r)
	}
}

// bytes are the library's own memory: gone after free.
func (r result) bytes() []byte {
	n := r.lib.length(r.r)
	if p := r.lib.buffer(r.r); p != nil && n > 0 {
		return unsafe.Slice(p, n) //nolint:gosec // the library says how long
	}
	return nil
}

func (r result) err() error {
	if r.r == 0 {
		return refuse(codeUnknown, "the engine gave no answer")
	}
	if text := r.lib.errorOf(r.r); text != "" {
		return fromEngine(text)
	}
	return nil
}

// query runs sql and returns its whole answer.
func (c *conn) query(sql, format string) (result, error) {
	r := result{c.lib, c.lib.query(*c.c, cstring(sql), uint64(len(sql)), cstring(format), uint64(len(format)))}
	if err := r.err(); err != nil {
		r.free()
		return result{}, err
	}
	return r, nil
}

// exec runs sql whose answer does not matter.
func (c *conn) exec(sql string) error {
	r, err := c.query(sql, "TabSeparated")
	if err == nil {
		r.free()
	}
	return err
}

// streamEnded is what the engine says, as an error, when one more chunk is
// asked after the last.
const streamEnded = "No active streaming query"

// stream runs sql and hands over its answer chunk by chunk. Each chunk is a
// whole document of its format.
func (c *conn) stream(sql, format string, chunk func([]byte) error) error {
	r := result{c.lib, c.lib.streamQuery(*c.c, cstring(sql), uint64(len(sql)), cstring(format), uint64(len(format)))}
	defer r.free()
	if err := r.err(); err != nil {
		return err
	}
	for {
		done, err := c.fetch(r, chunk)
		if err != nil {
			c.lib.streamCancel(*c.c, r.r)
		}
		if done || err != nil {
			return err
		}
	}
}

func (c *conn) fetch(of result, chunk func([]byte) error) (done bool, err error) {
	k := result{c.lib, c.lib.streamFetch(*c.c, of.r)}
	defer k.free()
	if k.r != 0 && k.lib.errorOf(k.r) == streamEnded {
		return true, nil
	}
	if err := k.err(); err != nil {
		return true, err
	}
	b := k.bytes()
	if len(b) == 0 {
		return true, nil
	}
	return false, chunk(b)
}

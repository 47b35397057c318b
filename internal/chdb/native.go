package chdb

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
)

// nativeReader knows how far src was consumed, read-ahead taken off.
type nativeReader struct {
	*chproto.Reader
	src *bytes.Reader
	buf *bufio.Reader
}

// nativeBufferBytes is ch-go's own buffer size: at that size its reader takes
// ours instead of wrapping it, so that the place in the data stays known.
const nativeBufferBytes = 128 << 10

func newNativeReader(src []byte) *nativeReader {
	r := bytes.NewReader(src)
	buf := bufio.NewReaderSize(r, nativeBufferBytes)
	return &nativeReader{chproto.NewReader(buf), r, buf}
}

func (r *nativeReader) at() int { return int(r.src.Size()) - r.src.Len() - r.buf.Buffered() }

// reencode turns Native blocks as the engine writes them (revision 0) into
// Native blocks at a client's revision. The columns' bytes are the same at both;
// what a revision adds is the block's info before it and, since 54454, a flag
// per column. clickhouse-go's decoders are used to know where a column ends.
//
// src is the engine's own output, never a client's bytes: the decoders allocate
// what an array's offsets claim.
func reencode(src []byte, revision uint64) (out []byte, err error) {
	defer func() {
		if p := recover(); p != nil { // decoders of odd types; seen with malformed blocks
			out, err = nil, fmt.Errorf("native block cannot be read: %v", p)
		}
	}()
	if revision == 0 {
		return src, nil
	}
	dst := chproto.Buffer{Buf: make([]byte, 0, len(src)+256)}
	for r := newNativeReader(src); r.at() < len(src); {
		if err := reencodeBlock(&dst, r, src, revision); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	return dst.Buf, nil
}

func reencodeBlock(dst *chproto.Buffer, r *nativeReader, src []byte, revision uint64) error {
	columns, err := r.UVarInt()
	if err != nil {
		return fmt.Errorf("native block: %w", err)
	}
	rows, err := r.UVarInt()
	if err != nil {
		return fmt.Errorf("native block: %w", err)
	}
	// Every column has a name and a type, every row of it a byte at least.
	if left := uint64(len(src) - r.at()); columns > left || rows > left { //nolint:gosec // never negative
		return fmt.Errorf("native block claims %d columns of %d rows in %d bytes", columns, rows, left)
	}
	// Block info: field 1 is_overflows, field 2 bucket_num, end.
	dst.PutUVarInt(1)
	dst.PutBool(false)
	dst.PutUVarInt(2)
	dst.PutInt32(-1)
	dst.PutUVarInt(0)
	dst.PutUVarInt(columns)
	dst.PutUVarInt(rows)
	for range columns {
		name, err := r.Str()
		if err != nil {
			return fmt.Errorf("native column name: %w", err)
		}
		typ, err := r.Str()
		if err != nil {
			return fmt.Errorf("native column type: %w", err)
		}
		dst.PutString(name)
		dst.PutString(typ)
		if revision >= proto.DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION {
			dst.PutBool(false)
		}
		if rows == 0 {
			continue
		}
		start := r.at()
		if err := skipColumn(r, name, typ, int(rows)); err != nil { //nolint:gosec // not over len(src)
			return fmt.Errorf("native column %q of type %s: %w", name, typ, err)
		}
		dst.PutRaw(src[start:r.at()])
	}
	return nil
}

// checkType refuses what clickhouse-go's parser of types loops on: brackets that
// do not close (found by FuzzReencode). The engine does not write such.
func checkType(typ string) error {
	open := 0
	l := &lexer{s: typ}
	for t, ok := l.next(); ok; t, ok = l.next() {
		switch t.text {
		case "(":
			open++
		case ")":
			open--
		}
		if open < 0 || open > 64 {
			return errors.New("not a type")
		}
	}
	if open != 0 || strings.Contains(typ, "(") && !strings.HasSuffix(typ, ")") {
		return errors.New("not a type")
	}
	return nil
}

func skipColumn(r *nativeReader, name, typ string, rows int) error {
	if err := checkType(typ); err != nil {
		return err
	}
	col, err := column.Type(typ).Column(name, &column.ServerContext{Timezone: time.UTC})
	if err != nil {
		return err
	}
	if c, ok := col.(column.CustomSerialization); ok {
		if err := c.ReadStatePrefix(r.Reader); err != nil {
			return err
		}
	}
	return col.Decode(r.Reader, rows)
}

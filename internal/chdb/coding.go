package chdb

import (
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"strings"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// decodeBody undoes a request's Content-Encoding and ClickHouse's own block
// compression (decompress=1).
func decodeBody(body io.Reader, r *http.Request, blocks bool) (io.Reader, error) {
	switch enc := strings.ToLower(r.Header.Get("Content-Encoding")); enc {
	case "", "identity":
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, refuse(codeDecompress, "the body is not gzip as Content-Encoding says")
		}
		body = z
	case "deflate":
		z, err := zlib.NewReader(body)
		if err != nil {
			return nil, refuse(codeDecompress, "the body is not deflate as Content-Encoding says")
		}
		body = z
	case "br":
		body = brotli.NewReader(body)
	case "zstd":
		z, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, refuse(codeDecompress, "the body is not zstd as Content-Encoding says")
		}
		body = z
	default:
		return nil, refuse(codeNotImplemented, "Content-Encoding %q; known are gzip, deflate, br, zstd", enc)
	}
	if blocks {
		body = &blockReader{r: body}
	}
	return body, nil
}

// blockReader reads ClickHouse's compressed blocks and ends cleanly where ch-go's reader
// reports the end of the input as an error.
type blockReader struct {
	r    io.Reader
	c    *compress.Reader
	seen bool
}

func (b *blockReader) Read(p []byte) (int, error) {
	if b.c == nil {
		b.c = compress.NewReader(&eofMarker{b})
	}
	b.seen = false
	n, err := b.c.Read(p)
	if err != nil && b.seen {
		return n, io.EOF
	}
	return n, err
}

// eofMarker notes that the input ended exactly between two blocks.
type eofMarker struct{ b *blockReader }

func (m *eofMarker) Read(p []byte) (int, error) {
	n, err := m.b.r.Read(p)
	// A block's header is read in one go of 25 bytes: an end at its first byte is the end.
	m.b.seen = err == io.EOF && n == 0 && len(p) == blockHeaderBytes
	return n, err
}

// blockHeaderBytes: checksum 16, method 1, sizes 4 and 4 (ch-go compress/compress.go).
const blockHeaderBytes = 25

// flusher is a coder that can be made to pass on what it holds.
type flusher interface {
	io.WriteCloser
	Flush() error
}

// encodeAnswer wraps w in the first coding the client accepts of those we have.
// It returns the Content-Encoding to announce, or empty and nil.
func encodeAnswer(w io.Writer, accept string) (string, flusher, error) {
	for part := range strings.SplitSeq(strings.ToLower(accept), ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if q := strings.ReplaceAll(params, " ", ""); strings.HasPrefix(q, "q=0") && strings.Trim(q, "q=0.") == "" {
			continue
		}
		switch strings.TrimSpace(name) {
		case "gzip":
			z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
			return "gzip", z, err
		case "deflate":
			z, err := zlib.NewWriterLevel(w, flate.BestSpeed)
			return "deflate", z, err
		case "br":
			return "br", brotli.NewWriterLevel(w, brotli.BestSpeed), nil
		case "zstd":
			z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
			return "zstd", z, err
		}
	}
	return "", nil, nil
}

// blockWriter writes ClickHouse's compressed blocks (compress=1).
type blockWriter struct {
	w io.Writer
	c *compress.Writer
}

// maxBlockBytes is ClickHouse's own max_compress_block_size.
const maxBlockBytes = 1 << 20

func newBlockWriter(w io.Writer, method string) *blockWriter {
	m := compress.LZ4
	if strings.EqualFold(method, "ZSTD") {
		m = compress.ZSTD
	}
	return &blockWriter{w, compress.NewWriter(0, m)}
}

func (b *blockWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), maxBlockBytes)
		if err := b.c.Compress(p[:k]); err != nil {
			return 0, err
		}
		if _, err := b.w.Write(b.c.Data); err != nil {
			return 0, err
		}
		p = p[k:]
	}
	return n, nil
}

func (b *blockWriter) Flush() error { return nil }
func (b *blockWriter) Close() error { return nil }

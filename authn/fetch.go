package authn

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"
)

// Bounds of what an issuer may answer. Entra ID's key set, the largest we know,
// is about 20 KiB.
const (
	maxDocumentBytes    = 512 << 10
	defaultFetchTimeout = 10 * time.Second
	maxRedirects        = 3
)

// refetchInterval is the least time between two fetches of one document from
// an issuer. Until it has passed the last answer is used again, so that tokens
// with made-up key ids can't hammer the issuer; it is also the longest that a
// rotated key may take to be known.
const refetchInterval = 10 * time.Second

var errTooSoon = errors.New("asked moments ago and had no answer")

// fetcher is the RoundTripper between go-oidc and one issuer: https only,
// answers bounded in size and time, each document fetched at most once in an
// interval. What an issuer once answered stays in use while it fails.
type fetcher struct {
	next    http.RoundTripper
	timeout time.Duration
	now     func() time.Time
	log     *slog.Logger
	// read checks a document and gives what go-oidc is to see of it; an error
	// is as if the issuer hadn't answered. Nil takes every document as it is.
	read func([]byte) ([]byte, error)
	// answered is told of every good answer, and whether it differs from the
	// one before. It must not call back. Nil tells nobody.
	answered func(changed bool)

	mu   sync.Mutex
	docs map[string]*document
	last [sha256.Size]byte // of the last good answer; zero before the first
}

// document is what was last fetched from one address.
type document struct {
	mu     sync.Mutex // held while fetching: others wait for its answer
	asked  time.Time
	answer *http.Response // its body is in body
	body   []byte
}

// newTransport reaches an issuer over TLS. caFile may be empty.
func newTransport(caFile string, timeout time.Duration) (http.RoundTripper, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pool, err := readCA(caFile)
		if err != nil {
			return nil, fmt.Errorf("read CA file %s: %w", caFile, err)
		}
		tlsConfig.RootCAs = pool
	}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: timeout, ResponseHeaderTimeout: timeout,
		MaxResponseHeaderBytes: 64 << 10, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute,
	}, nil
}

// keySetFileURL is the address under which go-oidc asks for a keySetFile. The
// name can't be anybody's (RFC 6761 section 6.4).
const keySetFileURL = "https://key-set-file.invalid/"

// fileTransport answers every request with the file that it names.
type fileTransport string

// RoundTrip reads the file.
func (t fileTransport) RoundTrip(*http.Request) (*http.Response, error) {
	b, err := readBounded(string(t))
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: http.StatusOK, Status: "200 OK", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(b)),
	}, nil
}

// readBounded reads a file of at most maxDocumentBytes. Its errors don't repeat
// the name.
func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer func() { _ = f.Close() }() // read-only, nothing to lose
	b, err := io.ReadAll(io.LimitReader(f, maxDocumentBytes+1))
	if err != nil {
		return nil, withoutPath(err)
	}
	if len(b) > maxDocumentBytes {
		return nil, fmt.Errorf("is larger than %d bytes", maxDocumentBytes)
	}
	return b, nil
}

func withoutPath(err error) error {
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// client is the HTTP client to give to go-oidc.
func (f *fetcher) client() *http.Client {
	return &http.Client{Transport: f, Timeout: f.timeout, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return errors.New("too many redirects")
		}
		return nil
	}}
}

// RoundTrip answers from what is known when the same document was asked for
// within the interval; otherwise it asks the issuer.
func (f *fetcher) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" || r.Method != http.MethodGet {
		return nil, errors.New("only GET over https is allowed")
	}
	doc := f.document(r.URL.String())
	doc.mu.Lock()
	defer doc.mu.Unlock()
	if now := f.now(); doc.asked.IsZero() || now.Sub(doc.asked) >= refetchInterval {
		doc.asked = now
		if err := f.fetch(doc, r); err != nil {
			if doc.answer == nil {
				return nil, err
			}
			f.log.Warn("issuer does not answer, its last answer stays in use", "url", r.URL.String(), "error", err)
		}
	}
	if doc.answer == nil {
		return nil, errTooSoon
	}
	answer := *doc.answer
	answer.Request = r
	answer.Body = io.NopCloser(bytes.NewReader(doc.body))
	return &answer, nil
}

// document finds or makes the document of an address. Addresses come from the
// config and the issuer's discovery, so there are few; the bound holds against
// an issuer that redirects to new ones for ever.
func (f *fetcher) document(url string) *document {
	f.mu.Lock()
	defer f.mu.Unlock()
	doc, ok := f.docs[url]
	if !ok {
		if len(f.docs) >= 16 {
			f.docs = map[string]*document{}
		}
		doc = &document{}
		f.docs[url] = doc
	}
	return doc
}

// fetch asks the issuer. A failure forgets nothing: the last answer stays.
func (f *fetcher) fetch(d *document, r *http.Request) error {
	resp, err := f.next.RoundTrip(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read-only, nothing to lose
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocumentBytes+1))
	if err != nil {
		return err
	}
	if len(body) > maxDocumentBytes {
		return fmt.Errorf("answer is larger than %d bytes", maxDocumentBytes)
	}
	// Redirects are for the client to follow. The body of a refusal is no use:
	// go-oidc would put it into its error.
	redirect := isRedirect(resp)
	if resp.StatusCode != http.StatusOK && !redirect {
		return fmt.Errorf("answered %d", resp.StatusCode)
	}
	if !redirect && f.read != nil {
		if body, err = f.read(body); err != nil {
			return err
		}
	}
	resp.ContentLength = int64(len(body))
	d.answer, d.body = resp, body
	if !redirect && f.answered != nil {
		f.answered(f.replaceLast(sha256.Sum256(body)))
	}
	return nil
}

// isRedirect reports whether resp sends the client on (RFC 9110 section 15.4).
func isRedirect(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return resp.Header.Get("Location") != ""
	}
	return false
}

// replaceLast remembers the last good answer and reports whether it replaces
// another.
func (f *fetcher) replaceLast(sum [sha256.Size]byte) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := f.last != [sha256.Size]byte{} && f.last != sum
	f.last = sum
	return changed
}

func (f *fetcher) lastAnswer() [sha256.Size]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

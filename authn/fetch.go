package authn

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// Bounds of what an issuer may answer. Entra ID's key set, the largest we know,
// is about 20 KiB.
const (
	maxDocumentBytes = 512 << 10
	fetchTimeout     = 10 * time.Second
	maxRedirects     = 3
)

// refetchInterval is the least time between two fetches of one document from
// an issuer. Until it has passed the last answer is used again, so that tokens
// with made-up key ids can't hammer the issuer; it is also the longest that a
// rotated key may take to be known.
const refetchInterval = 10 * time.Second

var errTooSoon = errors.New("asked moments ago and had no answer")

// fetcher is the RoundTripper between go-oidc and one issuer: https only,
// answers bounded in size, each document fetched at most once in an interval.
// What an issuer once answered stays in use while it fails.
type fetcher struct {
	next http.RoundTripper
	now  func() time.Time
	log  *slog.Logger

	mu   sync.Mutex
	docs map[string]*document
}

// document is what was last fetched from one address.
type document struct {
	mu     sync.Mutex // held while fetching: others wait for its answer
	asked  time.Time
	answer *http.Response // its body is in body
	body   []byte
}

func newFetcher(caFile string, now func() time.Time, log *slog.Logger) (*fetcher, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pool, err := readCA(caFile)
		if err != nil {
			return nil, fmt.Errorf("read CA file %s: %w", caFile, err)
		}
		tlsConfig.RootCAs = pool
	}
	return &fetcher{
		next: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: fetchTimeout, ResponseHeaderTimeout: fetchTimeout,
			MaxResponseHeaderBytes: 64 << 10, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute,
		},
		now: now, log: log, docs: map[string]*document{},
	}, nil
}

// client is the HTTP client to give to go-oidc.
func (f *fetcher) client() *http.Client {
	return &http.Client{Transport: f, Timeout: fetchTimeout, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
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
		if err := doc.fetch(f.next, r); err != nil {
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
func (d *document) fetch(next http.RoundTripper, r *http.Request) error {
	resp, err := next.RoundTrip(r)
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
	if resp.StatusCode != http.StatusOK && resp.StatusCode/100 != 3 {
		return fmt.Errorf("answered %d", resp.StatusCode)
	}
	resp.ContentLength = int64(len(body))
	d.answer, d.body = resp, body
	return nil
}

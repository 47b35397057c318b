package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"k8s.io/client-go/rest"
)

const (
	// maxAnswerBytes bounds one answer.
	maxAnswerBytes = 64 << 20
	// answerTimeout bounds one request: a change that is held may wait longer,
	// and counts as skipped.
	answerTimeout = 10 * time.Second
)

// request is one request of the agent, to the byte.
type request struct {
	method      string
	path        string // escaped, with its query
	header      http.Header
	body        string
	http1       bool
	stream      bool // ends by itself or by its time
	contentType string
}

// answer is what came back; what is gzip is unpacked.
type answer struct {
	code   int
	header http.Header
	body   []byte
}

// client asks as the agent, with headers and paths as they are given.
type client struct {
	base  *url.URL
	http1 *http.Client
	http2 *http.Client
}

func newClient(cfg *rest.Config) (*client, error) {
	base, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("the agent's kubeconfig: %w", err)
	}
	c := &client{base: base}
	for proto, to := range map[string]**http.Client{"http/1.1": &c.http1, "h2": &c.http2} {
		cfg := rest.CopyConfig(cfg)
		cfg.DisableCompression = true // what is packed is asked for, and seen, as it is
		cfg.NextProtos = []string{proto}
		if proto == "h2" {
			cfg.NextProtos = append(cfg.NextProtos, "http/1.1")
		}
		rt, err := rest.TransportFor(cfg)
		if err != nil {
			return nil, fmt.Errorf("the agent's kubeconfig: %w", err)
		}
		// A redirect is an answer like any other, and might lead the token elsewhere.
		*to = &http.Client{Transport: rt, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return c, nil
}

// do sends r and reads the answer. One that was cut by its time is no error
// where it is a stream.
func (c *client) do(ctx context.Context, r request) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	u, err := url.Parse(c.base.Scheme + "://" + c.base.Host + strings.TrimSuffix(c.base.EscapedPath(), "/") + r.path)
	if err != nil {
		return answer{}, fmt.Errorf("path: %w", err)
	}
	req := &http.Request{Method: r.method, URL: u, Host: u.Host, Header: r.header.Clone(), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if req.Header == nil {
		req.Header = http.Header{}
	}
	if r.body != "" {
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(r.body)), int64(len(r.body))
		req.Header.Set("Content-Type", r.contentType)
	}
	hc := c.http2
	if r.http1 {
		hc = c.http1
	}
	resp, err := hc.Do(req.WithContext(ctx))
	if err != nil {
		return answer{}, withoutURL(err)
	}
	defer func() { _ = resp.Body.Close() }() // read as far as it is wanted
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil && (!r.stream || !errors.Is(err, context.DeadlineExceeded)) {
		return answer{}, fmt.Errorf("answer %d broke off: %w", resp.StatusCode, err)
	}
	if resp.Header.Get("Content-Encoding") == "gzip" {
		if plain := gunzip(body); plain != nil {
			body = plain
		}
	}
	return answer{resp.StatusCode, resp.Header, body}, nil
}

// withoutURL drops what net/http says of the URL: the report has it.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// whole is everything of the answer that the agent gets.
func (a answer) whole() []byte {
	var b bytes.Buffer
	_ = a.header.Write(&b) // a buffer takes all
	b.WriteString("\n")
	b.Write(a.body)
	return b.Bytes()
}

// curl is r as a line to paste, the token left out.
func (r request) curl() string {
	if r.method == http.MethodGet && len(r.header) == 1 && r.header.Get("Accept") == "application/json" && !r.http1 {
		return "kubectl get --raw " + shell(r.path)
	}
	var b strings.Builder
	b.WriteString(`curl --path-as-is -s -H "Authorization: Bearer $TOKEN"`)
	if r.http1 {
		b.WriteString(" --http1.1")
	}
	switch r.method {
	case http.MethodGet:
	case http.MethodHead:
		b.WriteString(" -I")
	default:
		b.WriteString(" -X " + r.method)
	}
	if len(r.header["Accept"]) == 0 {
		b.WriteString(" -H Accept:")
	}
	for _, name := range sortedKeys(r.header) {
		for _, v := range r.header[name] {
			b.WriteString(" -H " + shell(name+": "+v))
		}
	}
	if r.body != "" {
		b.WriteString(" -H " + shell("Content-Type: "+r.contentType) + " -d " + shell(r.body))
	}
	return b.String() + ` "$SERVER"` + shell(r.path)
}

func shell(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

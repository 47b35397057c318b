package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/rest"

	"github.com/tipstaff-dev/tipstaff/internal/recording"
)

// Records says where what the proxy itself records is kept. Left out it is the
// ingest role of the same process.
type Records struct {
	// URL is that of an ingest role elsewhere, https://host:port.
	URL string `json:"url,omitempty"`
	// CAFile verifies its certificate. CertFile and KeyFile are the client
	// certificate to show it. All are PEM, and read again when they change.
	CAFile   string `json:"caFile,omitempty"`
	CertFile string `json:"certFile,omitempty"`
	KeyFile  string `json:"keyFile,omitempty"`
}

func (r *Records) validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	u, err := url.Parse(r.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		errs = append(errs, field.Invalid(at.Child("url"), r.URL, "must be https://host:port of an ingest role; leave records out for the one in this process"))
	}
	for _, f := range []struct{ name, file string }{{"caFile", r.CAFile}, {"certFile", r.CertFile}, {"keyFile", r.KeyFile}} {
		if f.file == "" {
			errs = append(errs, field.Required(at.Child(f.name), "ingest takes mutual TLS only"))
		} else if _, err := os.ReadFile(f.file); err != nil {
			errs = append(errs, field.Invalid(at.Child(f.name), f.file, "can't be read"))
		}
	}
	return errs
}

// Remote sends records to an ingest role elsewhere.
type Remote struct {
	client  *http.Client
	base    string
	cluster string
}

// NewRemote gives what sends the records of cluster to where r says.
func NewRemote(r Records, cluster string) (*Remote, error) {
	client, err := rest.HTTPClientFor(&rest.Config{
		Host: r.URL, TLSClientConfig: rest.TLSClientConfig{CAFile: r.CAFile, CertFile: r.CertFile, KeyFile: r.KeyFile},
		Timeout: storeTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("proxy: connection to ingest: %w", err)
	}
	return &Remote{client: client, base: strings.TrimRight(r.URL, "/"), cluster: url.PathEscape(cluster)}, nil
}

// StoreSession sends a piece of a recording. nil means that it is on disk.
// recording.ErrRefused means that it would not be taken again either.
func (r *Remote) StoreSession(ctx context.Context, p *recording.Piece) error {
	body, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("write the piece: %w", err)
	}
	return r.post(ctx, "/sessions/"+r.cluster, body)
}

// StoreEvents sends an audit.k8s.io/v1 EventList. nil means that it is on disk,
// recording.ErrRefused that it would not be taken again either.
func (r *Remote) StoreEvents(ctx context.Context, list []byte) error {
	return r.post(ctx, "/audit/"+r.cluster+"/proxy", list)
}

const maxRefusalBytes = 1 << 10

func (r *Remote) post(ctx context.Context, path string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask ingest: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return fmt.Errorf("ask ingest: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read as far as it matters
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusalBytes))
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
		return fmt.Errorf("%w: ingest answered %d: %s", recording.ErrRefused, resp.StatusCode, strings.TrimSpace(printed(string(text))))
	default:
		return fmt.Errorf("ingest answered %d: %s", resp.StatusCode, strings.TrimSpace(printed(string(text))))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read ingest's answer: %w", err)
	}
	return nil
}

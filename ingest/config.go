package ingest

import (
	"net"
	"net/url"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/internal/httpserve"
)

// defaultMaxBytes of the stream: at 200 bytes an event compressed, some forty
// million events, or three hours of one API server at its limit.
const defaultMaxBytes = 8 << 30

// minMaxBytes leaves room for a few of the largest batches.
const minMaxBytes = 256 << 20

// Config is the "ingest" section of the file.
type Config struct {
	// Listen is the TLS address to receive audit events on, host:port.
	Listen string `json:"listen"`
	// TLS is the server's certificate, and the CA of the client certificates
	// that API servers must present.
	TLS httpserve.TLS `json:"tls"`
	// Clusters are the names of the clusters whose events are taken. The API
	// server of each posts to /audit/<name>.
	Clusters []string `json:"clusters"`
	// JetStream is where events wait for ClickHouse.
	JetStream JetStream `json:"jetStream"`
}

// JetStream is an embedded server or a remote one: exactly one of Dir and URL.
type JetStream struct {
	// Dir is the folder of the embedded server. Nothing else may use it.
	Dir string `json:"dir,omitempty"`
	// URL is a remote server with JetStream, nats:// or tls://. For the promise
	// that an answered event survives a power cut it must run with sync_always,
	// or with three replicas on three machines.
	URL string `json:"url,omitempty"`
	// Replicas of the stream on a remote cluster. Zero means 1.
	Replicas int `json:"replicas,omitempty"`
	// MaxBytes bounds what may wait. Zero means 8 GiB. Full, batches are refused
	// with 503.
	MaxBytes int64 `json:"maxBytes,omitempty"`
}

// Validate reports everything wrong with c.
func (c *Config) Validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Listen == "" {
		errs = append(errs, field.Required(at.Child("listen"), `address to serve on, such as ":8445"`))
	} else if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		errs = append(errs, field.Invalid(at.Child("listen"), c.Listen, `must be host:port, such as ":8445"`))
	}
	errs = append(errs, c.TLS.Validate(at.Child("tls"), true)...)
	if len(c.Clusters) == 0 {
		errs = append(errs, field.Required(at.Child("clusters"), "names of the clusters whose events are taken"))
	}
	for i, name := range c.Clusters {
		at := at.Child("clusters").Index(i)
		for _, msg := range validation.IsDNS1123Label(name) {
			errs = append(errs, field.Invalid(at, name, msg))
		}
		if slices.Index(c.Clusters, name) < i {
			errs = append(errs, field.Duplicate(at, name))
		}
	}
	return append(errs, c.JetStream.validate(at.Child("jetStream"))...)
}

func (j *JetStream) validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case j.Dir == "" && j.URL == "":
		errs = append(errs, field.Required(at.Child("dir"), "folder where events wait for ClickHouse (or url of a remote JetStream)"))
	case j.Dir != "" && j.URL != "":
		errs = append(errs, field.Forbidden(at.Child("url"), "can't stand beside dir: the stream is embedded or remote"))
	}
	if j.URL != "" {
		u, err := url.Parse(j.URL)
		if err != nil || u.Host == "" || u.Scheme != "nats" && u.Scheme != "tls" {
			errs = append(errs, field.Forbidden(at.Child("url"), "must be nats://host:port or tls://host:port"))
		}
	}
	if j.Replicas < 0 || j.Replicas > 5 || j.Replicas > 1 && j.URL == "" {
		errs = append(errs, field.Invalid(at.Child("replicas"), j.Replicas, "must be 1 to 5, and more than 1 only with url"))
	}
	if j.MaxBytes != 0 && j.MaxBytes < minMaxBytes {
		errs = append(errs, field.Invalid(at.Child("maxBytes"), j.MaxBytes, "must be at least 268435456 (256 MiB); leave out for 8 GiB"))
	}
	return errs
}

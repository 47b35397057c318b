package ingest

import (
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/ingest/chain"
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
	// Chain has what is stored proven by a signed log. Without it nobody can show
	// that ClickHouse has what was written.
	Chain *Chain `json:"chain,omitempty"`
}

// Chain is the log that proves what was stored.
type Chain struct {
	// KeyFile is the private Ed25519 key that signs it (PKCS #8, PEM), such as made by
	// `openssl genpkey -algorithm ed25519`. All replicas have the same.
	KeyFile string `json:"keyFile"`
	// FormerKeyFiles are public keys (PEM) that signed the log before KeyFile did.
	FormerKeyFiles []string `json:"formerKeyFiles,omitempty"`
	// CheckpointFile gets a line for each head of the log: a place that whoever can
	// write to ClickHouse can't take back from, such as a mounted bucket with
	// object lock.
	CheckpointFile string `json:"checkpointFile,omitempty"`
}

// JetStream is an embedded server (Dir), a remote one (URL), or both: then what
// is received is stored in Dir first, answered, and forwarded.
type JetStream struct {
	// Dir is the folder of the embedded server. Nothing else may use it.
	Dir string `json:"dir,omitempty"`
	// URL names one or more servers of a remote cluster with JetStream, nats:// or
	// tls://, separated by commas. With Dir, nothing is lost while they are all
	// away; without it, batches are refused then, and the API server gives them up.
	// For the promise that an answered event survives a power cut they must run with
	// sync_interval: always, or with three replicas on three machines.
	URL string `json:"url,omitempty"`
	// CredentialsFile, CAFile, and CertFile with KeyFile say who we are to the
	// remote servers and whom to believe (a .creds file, and PEM). They are read
	// again at each connection.
	CredentialsFile string `json:"credentialsFile,omitempty"`
	CAFile          string `json:"caFile,omitempty"`
	CertFile        string `json:"certFile,omitempty"`
	KeyFile         string `json:"keyFile,omitempty"`
	// Replicas of the streams on a remote cluster. Zero means 1.
	Replicas int `json:"replicas,omitempty"`
	// MaxBytes bounds what may wait, in Dir and on the remote cluster each. Zero
	// means 8 GiB. Full, batches are refused with 503.
	MaxBytes int64 `json:"maxBytes,omitempty"`
}

// spool is the part of j that stores what is forwarded to the rest.
func (j JetStream) spool() JetStream { return JetStream{Dir: j.Dir, MaxBytes: j.MaxBytes} }

// remote is j without its spool.
func (j JetStream) remote() JetStream {
	j.Dir = ""
	return j
}

// spools reports whether batches are stored here and forwarded.
func (j JetStream) spools() bool { return j.Dir != "" && j.URL != "" }

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
	if c.Chain != nil {
		errs = append(errs, c.Chain.validate(at.Child("chain"))...)
	}
	return append(errs, c.JetStream.validate(at.Child("jetStream"))...)
}

func (c *Chain) validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.KeyFile == "" {
		errs = append(errs, field.Required(at.Child("keyFile"), "private key that signs the log, such as made by: openssl genpkey -algorithm ed25519"))
	} else if _, err := chain.ReadKey(c.KeyFile, nil); err != nil {
		errs = append(errs, field.Invalid(at.Child("keyFile"), c.KeyFile, err.Error()))
	}
	for i, name := range c.FormerKeyFiles {
		if _, err := chain.ReadPublicKeys(name); err != nil {
			errs = append(errs, field.Invalid(at.Child("formerKeyFiles").Index(i), name, err.Error()))
		}
	}
	return errs
}

func (j *JetStream) validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if j.Dir == "" && j.URL == "" {
		errs = append(errs, field.Required(at.Child("dir"), "folder where events wait for ClickHouse (or url of a remote JetStream, or both)"))
	}
	if j.URL != "" {
		for one := range strings.SplitSeq(j.URL, ",") {
			u, err := url.Parse(strings.TrimSpace(one))
			if err != nil || u.Host == "" || u.Scheme != "nats" && u.Scheme != "tls" {
				// Not Invalid: it prints the value, which may hold a password.
				errs = append(errs, field.Forbidden(at.Child("url"), "must be nats://host:port or tls://host:port, or several separated by commas"))
				break
			}
		}
	}
	for _, f := range []struct{ name, file string }{
		{"credentialsFile", j.CredentialsFile}, {"caFile", j.CAFile}, {"certFile", j.CertFile}, {"keyFile", j.KeyFile},
	} {
		if f.file == "" {
			continue
		}
		if j.URL == "" {
			errs = append(errs, field.Forbidden(at.Child(f.name), "is for a remote JetStream: name it in url"))
		} else if _, err := os.ReadFile(f.file); err != nil {
			errs = append(errs, field.Invalid(at.Child(f.name), f.file, "can't be read"))
		}
	}
	if (j.CertFile == "") != (j.KeyFile == "") {
		errs = append(errs, field.Required(at.Child("keyFile"), "certFile and keyFile go together"))
	}
	if j.Replicas < 0 || j.Replicas > 5 || j.Replicas > 1 && j.URL == "" {
		errs = append(errs, field.Invalid(at.Child("replicas"), j.Replicas, "must be 1 to 5, and more than 1 only with url"))
	}
	if j.MaxBytes != 0 && j.MaxBytes < minMaxBytes {
		errs = append(errs, field.Invalid(at.Child("maxBytes"), j.MaxBytes, "must be at least 268435456 (256 MiB); leave out for 8 GiB"))
	}
	return errs
}

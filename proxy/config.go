package proxy

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/internal/httpserve"
)

// Config is the "proxy" section of the file.
type Config struct {
	// Listen is the TLS address to serve on, host:port. It is the server in
	// agents' kubeconfigs.
	Listen string `json:"listen"`
	// TLS is the server's certificate. Agents prove themselves by token, so a
	// client CA has no use here.
	TLS httpserve.TLS `json:"tls"`
	// HoldTimeout is how long a held change waits in the proxy at most; it waits
	// no longer than its approval lives. A client may ask for less by the header
	// Tipstaff-Wait. Left out it is 1h; 0s lets nothing wait. At most 24h.
	HoldTimeout *metav1.Duration `json:"holdTimeout,omitempty"`
	// Records says where recordings and the proxy's own audit events are kept.
	// Left out it is the ingest role of the same process.
	Records *Records `json:"records,omitempty"`
	// Sessions says what becomes of exec and attach.
	Sessions SessionsConfig `json:"sessions,omitempty"`
	// Audit has the proxy write audit events of its own. Left out it writes
	// none: the API server's tell more.
	Audit *Audit `json:"audit,omitempty"`
}

// SessionsConfig says what becomes of exec and attach.
type SessionsConfig struct {
	// Record says whether they are recorded. Left out they are, and where that
	// can't be they are refused.
	Record *bool `json:"record,omitempty"`
}

func (c SessionsConfig) unrecorded() bool { return c.Record != nil && !*c.Record }

const (
	// defaultHoldTimeout is longer than an approval lives unless its rule says so.
	defaultHoldTimeout = time.Hour
	maxHoldTimeout     = 24 * time.Hour
)

// holdTimeout is HoldTimeout or its default.
func (c *Config) holdTimeout() time.Duration {
	if c.HoldTimeout == nil {
		return defaultHoldTimeout
	}
	return c.HoldTimeout.Duration
}

// Validate reports everything wrong with c. It changes nothing.
func (c *Config) Validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Listen == "" {
		errs = append(errs, field.Required(at.Child("listen"), `address to serve on, such as ":8443"`))
	}
	if c.TLS.ClientCAFile != "" {
		errs = append(errs, field.Forbidden(at.Child("tls", "clientCAFile"), "agents prove themselves by token"))
	}
	if t := c.HoldTimeout; t != nil && (t.Duration < 0 || t.Duration > maxHoldTimeout) {
		errs = append(errs, field.Invalid(at.Child("holdTimeout"), t.Duration.String(), "must be from 0s, which lets nothing wait, to 24h; leave out for 1h"))
	}
	if c.Records != nil {
		errs = append(errs, c.Records.validate(at.Child("records"))...)
	}
	if c.Audit != nil {
		errs = append(errs, c.Audit.validate(at.Child("audit"))...)
	}
	return append(errs, c.TLS.Validate(at.Child("tls"), false)...)
}

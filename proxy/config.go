package proxy

import (
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
	return append(errs, c.TLS.Validate(at.Child("tls"), false)...)
}

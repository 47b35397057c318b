package approvals

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DefaultRetention is how long a finished approval stays when nothing is set.
const DefaultRetention = 168 * time.Hour

// Config is the "approvals" section of the file.
type Config struct {
	// Retention is how long a finished approval stays in the API server; its
	// record stays in the audit log. One that expired with no decision at all
	// stays for an hour at most. Zero means 168h.
	Retention metav1.Duration `json:"retention,omitempty"`
}

// Validate reports everything wrong with c. It changes nothing and opens nothing.
func (c *Config) Validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Retention.Duration < 0 {
		errs = append(errs, field.Invalid(at.Child("retention"), c.Retention.Duration.String(), "must not be negative; leave out for 168h"))
	}
	return errs
}

package httpserve

import (
	"crypto/tls"
	"errors"
	"os"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/util/cert"
)

// TLS names the files that a server proves itself and its callers with.
type TLS struct {
	// CertFile and KeyFile are the serving certificate (with its chain) and
	// its key, PEM. They are read again when they change.
	CertFile string `json:"certFile"`
	KeyFile  string `json:"keyFile"`
	// ClientCAFile holds the CAs that client certificates must come from, PEM.
	ClientCAFile string `json:"clientCAFile,omitempty"`
	// ClientNames are the common names that a client certificate may bear. Where
	// only the API server may call, one must be given: people and nodes often
	// have certificates of the same CA.
	ClientNames []string `json:"clientNames,omitempty"`
}

// Validate reports everything wrong with t, files that can't be read included.
// onlyAPIServer is set by servers that nobody else may call.
func (t *TLS) Validate(at *field.Path, onlyAPIServer bool) field.ErrorList {
	var errs field.ErrorList
	readable := func(child, name, what string) bool {
		if name == "" {
			errs = append(errs, field.Required(at.Child(child), what))
			return false
		}
		if _, err := os.ReadFile(name); err != nil {
			errs = append(errs, field.Invalid(at.Child(child), name, "can't be read: "+reason(err)))
			return false
		}
		return true
	}
	certOK := readable("certFile", t.CertFile, "file with the serving certificate (PEM)")
	keyOK := readable("keyFile", t.KeyFile, "file with the serving certificate's key (PEM)")
	if certOK && keyOK {
		if _, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
			errs = append(errs, field.Invalid(at.Child("certFile"), t.CertFile, "is no certificate for this keyFile: "+err.Error()))
		}
	}
	if onlyAPIServer && t.ClientCAFile == "" {
		errs = append(errs, field.Required(at.Child("clientCAFile"), "file with the CA of the API server's client certificate (PEM)"))
	}
	if onlyAPIServer && len(t.ClientNames) == 0 {
		errs = append(errs, field.Required(at.Child("clientNames"), "common name of the API server's client certificate: who else has one of that CA could speak for it"))
	}
	if t.ClientCAFile != "" && readable("clientCAFile", t.ClientCAFile, "") {
		if _, err := cert.NewPool(t.ClientCAFile); err != nil {
			errs = append(errs, field.Invalid(at.Child("clientCAFile"), t.ClientCAFile, "holds no CA certificate (PEM)"))
		}
	}
	if len(t.ClientNames) > 0 && t.ClientCAFile == "" {
		errs = append(errs, field.Forbidden(at.Child("clientNames"), "means nothing without clientCAFile"))
	}
	return errs
}

// reason is the cause of a file error without the path, which the fault names already.
func reason(err error) string {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

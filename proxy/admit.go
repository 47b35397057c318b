package proxy

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/tipstaff-dev/tipstaff/mask"
)

// checkPath refuses paths that two readers could take for two different
// requests: the proxy decides by one reading, the API server acts by another.
func checkPath(u *url.URL) error {
	p := u.Path
	if p == "" || p[0] != '/' {
		return errors.New("the path must start with a slash")
	}
	if clean := path.Clean(p); clean != p && (clean+"/" != p || clean == "/") {
		return errors.New("the path must be clean: no empty, . or .. elements")
	}
	escaped := strings.ToLower(u.EscapedPath())
	for _, bad := range []string{"%2f", "%2e", "%25", "%5c", "%00", "%0a", "%0d"} {
		if strings.Contains(escaped, bad) {
			return fmt.Errorf("the path must not hold the escape %s", bad)
		}
	}
	return nil
}

// offered refuses what the proxy doesn't offer: what a pod, a service or a node
// serves by itself can't be masked.
func offered(info *request.RequestInfo) *apierrors.StatusError {
	if info.Verb == "proxy" || info.Subresource == "proxy" {
		return forbidden(info, fmt.Sprintf("%s/proxy is not offered through the proxy", info.Resource))
	}
	return nil
}

// logs reports whether the answer is a pod's log.
func logs(info *request.RequestInfo) bool {
	return info.IsResourceRequest && info.APIGroup == "" && info.Resource == "pods" && info.Subresource == "log"
}

// selectors refuses a field selector that compares a masked field: which
// objects it finds would say whether a guess is right.
func (p *Proxy) selectors(info *request.RequestInfo, query url.Values) *apierrors.StatusError {
	for _, s := range query["fieldSelector"] {
		sel, err := fields.ParseSelector(s)
		if err != nil {
			return apierrors.NewBadRequest("the field selector can't be read")
		}
		for _, r := range sel.Requirements() {
			if p.masker.Names(mask.Ref{Resource: info.Resource, Subresource: info.Subresource}, strings.Split(r.Field, ".")) {
				return forbidden(info, fmt.Sprintf("the field %s is masked: nothing can be selected by it", r.Field))
			}
		}
	}
	return nil
}

func forbidden(info *request.RequestInfo, why string) *apierrors.StatusError {
	return apierrors.NewForbidden(schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}, info.Name, errors.New(why))
}

// passesPlain reports whether the path serves no objects, so that its answer
// is passed as it stands whatever its type.
func passesPlain(info *request.RequestInfo) bool {
	if info.IsResourceRequest {
		return false
	}
	for _, p := range []string{"/openapi/", "/healthz", "/livez", "/readyz"} {
		if strings.HasPrefix(info.Path, p) {
			return true
		}
	}
	return info.Path == "/version" || info.Path == "/version/"
}

// narrowAccept keeps of an Accept header (RFC 9110 section 12.5.1) what the
// masker can read. False means that nothing is left.
func narrowAccept(values []string) (string, bool) {
	var kept []string
	some := false
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			some = true
			mt, params, err := mime.ParseMediaType(part)
			if err != nil {
				continue
			}
			switch mt {
			case "*/*", "application/*":
				kept = append(kept, "application/json")
			case "application/json":
				kept = append(kept, mime.FormatMediaType(mt, params))
			}
		}
	}
	if !some {
		return "application/json", true
	}
	return strings.Join(kept, ", "), len(kept) > 0
}

// takesGzip reports whether an answer may be compressed, as the API server judges
// it (apiserver, endpoints/handlers/responsewriters).
func takesGzip(h http.Header) bool {
	for _, v := range h.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(v, ",") {
			if strings.TrimSpace(part) == "gzip" {
				return true
			}
		}
	}
	return false
}

func notAcceptable() *apierrors.StatusError {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: "the proxy masks what agents read and answers in application/json, and single answers of Kubernetes' own kinds in protobuf: ask for that",
	}}
}

// ours are the headers that the proxy sets, or that nobody but the API server
// may. It takes a request's audit id from Audit-ID and its source addresses
// from X-Real-Ip (apiserver, filters/audit_init.go; apimachinery, net/http.go).
// Tipstaff-Wait is for the proxy alone.
var ours = map[string]bool{
	"authorization": true, "cookie": true, "audit-id": true, "forwarded": true, "x-real-ip": true, waitHeader: true,
}

// cleanHeaders removes what could say who the client is, or who asks on whose
// behalf: the proxy alone says that. The impersonation headers come after.
func cleanHeaders(h http.Header) {
	for name := range h {
		lower := strings.ToLower(name)
		if ours[lower] ||
			strings.HasPrefix(lower, "impersonate-") || strings.HasPrefix(lower, "x-remote-") || strings.HasPrefix(lower, "x-forwarded-") ||
			// A header name with an underscore is read as one with a hyphen by some servers.
			strings.Contains(lower, "_") {
			delete(h, name)
		}
	}
}

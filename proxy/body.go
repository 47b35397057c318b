package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/mask"
)

// maxBodyBytes is the API server's own limit of a request's body
// (apiserver, server/config.go, MaxRequestBodyBytes).
const maxBodyBytes = 3 << 20

// bodyTimeout bounds how long a client may take to send it. The API server
// gives a whole request 60 s (--request-timeout).
const bodyTimeout = 60 * time.Second

// checkBody reads the request's body, refuses a mark in it (I8), and leaves the
// body to be read again.
func checkBody(w http.ResponseWriter, r *http.Request) *apierrors.StatusError {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	if r.Header.Get("Content-Encoding") != "" {
		return unsupported("a request's body must not be compressed")
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // every server of ours can; a writer in a test may not
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	_ = rc.SetReadDeadline(time.Time{}) // the answer may be a stream without end
	if err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the body is larger than %d bytes", maxBodyBytes))
		}
		return apierrors.NewBadRequest("the body could not be read")
	}
	if len(body) > 0 {
		if status := refuseMarks(r.Header.Get("Content-Type"), body); status != nil {
			return status
		}
	}
	setBody(r, body)
	return nil
}

// setBody makes body the request's. What replaces it later must use this too:
// a held request is sent again from GetBody.
func setBody(r *http.Request, body []byte) {
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	r.TransferEncoding = nil
}

func refuseMarks(contentType string, body []byte) *apierrors.StatusError {
	mt, _, err := mime.ParseMediaType(contentType)
	if contentType == "" {
		mt, err = "application/json", nil
	}
	if err != nil {
		return unsupported("the Content-Type can't be read")
	}
	switch mt {
	case "application/json", "application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json":
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			return apierrors.NewBadRequest("the body is no JSON")
		}
		if status := refuseMarksIn(v, body); status != nil {
			return status
		}
		// Of a name given twice v holds the last only, and the bytes may spell a
		// mark with escapes; the API server's typed decoder merges both.
		if !jsontext.Value(body).IsValid() {
			return apierrors.NewBadRequest("the body holds a name twice, or text that is no UTF-8")
		}
		return nil
	case "application/yaml", "application/apply-patch+yaml":
		var v any
		if err := yaml.UnmarshalStrict(body, &v); err != nil {
			return apierrors.NewBadRequest("the body is no YAML, or it holds a name twice")
		}
		return refuseMarksIn(v, body)
	case "application/vnd.kubernetes.protobuf":
		// A Secret's values are raw bytes there, a mark stands as it is.
		if mask.HasMark(string(body)) {
			return markRefused("the body")
		}
		return nil
	}
	return unsupported("the proxy takes bodies in JSON, YAML or Kubernetes' protobuf")
}

// refuseMarksIn looks at the decoded body, to name the field, and at the bytes:
// of a name given twice the decoded body holds only the last.
func refuseMarksIn(v any, body []byte) *apierrors.StatusError {
	if path, found := mask.ContainsMark(v); found {
		return markRefused(path)
	}
	if mask.HasMark(string(body)) {
		return markRefused("the body")
	}
	return nil
}

func markRefused(where string) *apierrors.StatusError {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden,
		Message: fmt.Sprintf("%s holds a mark that stands for a masked value; written back, it would overwrite the real one. Nothing has changed.", where),
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: metav1.CauseTypeFieldValueInvalid, Field: where, Message: "masked value"}}},
	}}
}

func unsupported(message string) *apierrors.StatusError {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType, Message: message,
	}}
}

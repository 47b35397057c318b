package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxBodyBytes is the API server's own limit of a request's body
// (apiserver, server/config.go, MaxRequestBodyBytes).
const maxBodyBytes = 3 << 20

// bodyTimeout bounds how long a client may take to send it. The API server
// gives a whole request 60 s (--request-timeout).
const bodyTimeout = 60 * time.Second

// readBody reads the request's body. none is true where it has none.
func readBody(w http.ResponseWriter, r *http.Request) (body []byte, none bool, refused *apierrors.StatusError) {
	if r.Body == nil || r.Body == http.NoBody {
		return nil, true, nil
	}
	if r.Header.Get("Content-Encoding") != "" {
		return nil, false, unsupported("a request's body must not be compressed")
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // every server of ours can; a writer in a test may not
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	_ = rc.SetReadDeadline(time.Time{}) // the answer may be a stream without end
	if err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			return nil, false, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the body is larger than %d bytes", maxBodyBytes))
		}
		return nil, false, apierrors.NewBadRequest("the body could not be read")
	}
	return body, len(body) == 0, nil
}

// checkBody reads the request's body and leaves in its place what c makes of it.
func checkBody(w http.ResponseWriter, r *http.Request, c *change) *apierrors.StatusError {
	body, none, refused := readBody(w, r)
	if refused != nil {
		return refused
	}
	if !none {
		out, contentType, refused := c.body(r.Context(), r.Header.Get("Content-Type"), body)
		if refused != nil {
			return refused
		}
		body = out
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
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

func markRefused(where string) *apierrors.StatusError {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden,
		Message: fmt.Sprintf("%s holds a mark that stands for a masked value; written back, it would overwrite the real one. Nothing has changed.", where),
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: metav1.CauseTypeFieldValueInvalid, Field: where, Message: "masked value"}}},
	}}
}

// uncovered refuses a change after which a value that was masked would be read
// as it is.
func uncovered(where string) *apierrors.StatusError {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden,
		Message: fmt.Sprintf("%s holds a mark where what it stands for would no longer be masked: the name or the text beside it is another. Nothing has changed.", where),
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: metav1.CauseTypeFieldValueInvalid, Field: where, Message: "masked value"}}},
	}}
}

func unsupported(message string) *apierrors.StatusError {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType, Message: message,
	}}
}

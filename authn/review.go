package authn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// maxReviewBytes caps one TokenReview. Tokens we accept stay under 16 KiB; 1 MiB
// leaves room for other authenticators' tokens, which are passed over.
const maxReviewBytes = 1 << 20

// reviewTimeout bounds one review. The API server gives up after 10 s
// (apiserver v0.37, server/options: webhook request timeout) and tries again.
const reviewTimeout = 5 * time.Second

// maxAudiences bounds what a caller may ask for: an API server asks for the few
// of its --api-audiences.
const maxAudiences = 128

const reviewKind = "TokenReview"

// Handler answers the API server's TokenReviews at POST /tokenreview. A token
// that is refused, or isn't ours, is a 200 that says so; 4xx is for what is no
// TokenReview of authentication.k8s.io/v1.
func (a *Authenticator) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /tokenreview", a.serveReview)
	return mux
}

func (a *Authenticator) serveReview(w http.ResponseWriter, r *http.Request) {
	if !isJSON(r.Header.Get("Content-Type")) {
		http.Error(w, "content type must be application/json", http.StatusUnsupportedMediaType)
		return
	}
	spec, err := withBody(w, r, parseReview)
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		http.Error(w, "review is too large", http.StatusRequestEntityTooLarge)
		return
	case err != nil:
		a.log.WarnContext(r.Context(), "malformed TokenReview", "error", err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), reviewTimeout)
	defer cancel()
	// The answer never carries the spec: it holds the token.
	answer := reviewAnswer{APIVersion: authenticationv1.SchemeGroupVersion.String(), Kind: reviewKind, Status: a.review(ctx, spec)}
	b, err := json.Marshal(&answer)
	if err != nil {
		a.log.ErrorContext(r.Context(), "encode TokenReview", "error", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // the caller has gone; it gets no identity then
}

func isJSON(contentType string) bool {
	if contentType == "application/json" {
		return true
	}
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && t == "application/json"
}

// bodies are buffers for request bodies. One that grew beyond what tokens of
// agents need isn't kept.
var bodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

const maxKeptBody = 64 << 10

// withBody reads the request's body, at most maxReviewBytes, and hands it to f,
// which must not keep it.
func withBody(w http.ResponseWriter, r *http.Request, f func(body []byte) (reviewSpec, error)) (reviewSpec, error) {
	buf, ok := bodies.Get().(*bytes.Buffer)
	if !ok {
		buf = new(bytes.Buffer)
	}
	defer func() {
		if buf.Cap() <= maxKeptBody {
			clear(buf.Bytes()) // it held a token
			buf.Reset()
			bodies.Put(buf)
		}
	}()
	if _, err := buf.ReadFrom(http.MaxBytesReader(w, r.Body, maxReviewBytes)); err != nil {
		return reviewSpec{}, &unreadError{err}
	}
	return f(buf.Bytes())
}

// unreadError says that a body didn't come whole.
type unreadError struct{ err error }

func (e *unreadError) Error() string { return "review could not be read" }
func (e *unreadError) Unwrap() error { return e.err }

// reviewSpec is what we need of a TokenReview's spec.
type reviewSpec struct {
	Token     string   `json:"token"`
	Audiences []string `json:"audiences"`
}

// reviewAnswer is a TokenReview as we answer it: authenticationv1's, with a user
// that is encoded already.
type reviewAnswer struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Status     reviewStatus `json:"status"`
}

type reviewStatus struct {
	Authenticated bool           `json:"authenticated,omitzero"`
	User          jsontext.Value `json:"user,omitzero"`
	Audiences     []string       `json:"audiences,omitempty"`
	Error         string         `json:"error,omitzero"`
}

// parseReview takes the spec of a TokenReview. Fields that a later Kubernetes
// may add are ignored; names given twice, anywhere, are not. Errors quote nothing.
func parseReview(body []byte) (reviewSpec, error) {
	var review struct {
		APIVersion string     `json:"apiVersion"`
		Kind       string     `json:"kind"`
		Spec       reviewSpec `json:"spec"`
	}
	if err := json.Unmarshal(body, &review); err != nil {
		return reviewSpec{}, errors.New("body is not one JSON object with distinct names that holds a TokenReview")
	}
	switch {
	case review.APIVersion != authenticationv1.SchemeGroupVersion.String() || review.Kind != reviewKind:
		return reviewSpec{}, fmt.Errorf("body must be a %s of %s", reviewKind, authenticationv1.SchemeGroupVersion)
	case review.Spec.Token == "":
		return reviewSpec{}, errors.New("spec.token is empty")
	case len(review.Spec.Audiences) > maxAudiences:
		return reviewSpec{}, fmt.Errorf("spec.audiences holds more than %d", maxAudiences)
	}
	return review.Spec, nil
}

// review answers one review. Whatever goes wrong on the way is a refusal.
func (a *Authenticator) review(ctx context.Context, spec reviewSpec) (status reviewStatus) {
	defer func() {
		if p := recover(); p != nil {
			// The value may hold claims; its type and the stack say where the bug is.
			a.log.ErrorContext(ctx, "panic in a token review", "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			a.metrics.count("", "", outcomeError)
			status = reviewStatus{Error: "internal error"}
		}
	}()
	v, err := a.authenticate(ctx, spec.Token)
	var audiences []string
	if err == nil {
		audiences, err = v.answerTo(spec.Audiences)
	}
	a.metrics.countResult(v, err)
	var refused *RefusedError
	switch {
	case err == nil:
		return reviewStatus{Authenticated: true, User: v.user, Audiences: audiences}
	case errors.Is(err, ErrNotOurs):
		return reviewStatus{}
	case errors.As(err, &refused):
		a.log.InfoContext(ctx, "token refused", "reason", refused.Reason)
		return reviewStatus{Error: refused.Reason}
	}
	a.log.ErrorContext(ctx, "token could not be checked", "error", err)
	return reviewStatus{Error: "internal error"}
}

// answerTo are the audiences to name to a caller that asked for those. The API
// server asks for its own --api-audiences and takes only an answer that names
// one of them; without any in the answer it would assume its own
// (apiserver v0.37, plugin/pkg/authenticator/token/webhook: AuthenticateToken).
// So what we name is what the token says, our config accepts and the caller asked.
func (v *verified) answerTo(asked []string) ([]string, error) {
	if len(asked) == 0 {
		return nil, nil
	}
	var audiences []string
	for _, aud := range asked {
		if slices.Contains(v.audiences, aud) && !slices.Contains(audiences, aud) {
			audiences = append(audiences, aud)
		}
	}
	if len(audiences) == 0 {
		return nil, v.by.refuse(outcomeRefused, v.mapping, errors.New("token is for none of the audiences that the API server asks for (its --api-audiences)"))
	}
	return audiences, nil
}

// userInfo is a user as a TokenReview carries it (authenticationv1.UserInfo).
type userInfo struct {
	Username string              `json:"username"`
	Groups   []string            `json:"groups"`
	Extra    map[string][]string `json:"extra"`
}

func userOfAgent(a v1alpha1.Agent) userInfo {
	return userInfo{Username: a.User, Groups: a.Groups(), Extra: a.Extra()}
}

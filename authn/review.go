package authn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	kjson "sigs.k8s.io/json"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// maxReviewBytes caps one TokenReview. Tokens we accept stay under 16 KiB; 1 MiB
// leaves room for other authenticators' tokens, which are passed over.
const maxReviewBytes = 1 << 20

// reviewTimeout bounds one review. The API server gives up after 10 s
// (apiserver v0.37, server/options: webhook request timeout) and tries again.
const reviewTimeout = 5 * time.Second

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
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		http.Error(w, "content type must be application/json", http.StatusUnsupportedMediaType)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReviewBytes))
	if err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			http.Error(w, "review is too large", http.StatusRequestEntityTooLarge)
			return
		}
		http.Error(w, "review could not be read", http.StatusBadRequest)
		return
	}
	spec, err := parseReview(body)
	if err != nil {
		a.log.WarnContext(r.Context(), "malformed TokenReview", "error", err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), reviewTimeout)
	defer cancel()
	// The answer never carries the spec: it holds the token.
	answer := authenticationv1.TokenReview{Status: a.review(ctx, spec)}
	answer.APIVersion, answer.Kind = authenticationv1.SchemeGroupVersion.String(), reviewKind
	b, err := json.Marshal(answer)
	if err != nil {
		a.log.ErrorContext(r.Context(), "encode TokenReview", "error", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // the caller has gone; it gets no identity then
}

// parseReview takes the spec of a TokenReview. Fields that a later Kubernetes
// may add are ignored, names given twice are not. Errors quote nothing.
func parseReview(body []byte) (authenticationv1.TokenReviewSpec, error) {
	var none authenticationv1.TokenReviewSpec
	if _, err := decodeObject(body); err != nil {
		return none, errors.New("body is not one JSON object with distinct names")
	}
	var review authenticationv1.TokenReview
	if err := kjson.UnmarshalCaseSensitivePreserveInts(body, &review); err != nil {
		return none, errors.New("body is not a TokenReview")
	}
	if review.APIVersion != authenticationv1.SchemeGroupVersion.String() || review.Kind != reviewKind {
		return none, fmt.Errorf("body must be a %s of %s", reviewKind, authenticationv1.SchemeGroupVersion)
	}
	if review.Spec.Token == "" {
		return none, errors.New("spec.token is empty")
	}
	return review.Spec, nil
}

// review answers one review. Whatever goes wrong on the way is a refusal.
func (a *Authenticator) review(ctx context.Context, spec authenticationv1.TokenReviewSpec) (status authenticationv1.TokenReviewStatus) {
	defer func() {
		if p := recover(); p != nil {
			// The value may hold claims; its type and the stack say where the bug is.
			a.log.ErrorContext(ctx, "panic in a token review", "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			status = authenticationv1.TokenReviewStatus{Error: "internal error"}
		}
	}()
	v, err := a.authenticate(ctx, spec.Token)
	var refused *RefusedError
	switch {
	case errors.Is(err, ErrNotOurs):
		return authenticationv1.TokenReviewStatus{}
	case errors.As(err, &refused):
		a.log.InfoContext(ctx, "token refused", "reason", refused.Reason)
		return authenticationv1.TokenReviewStatus{Error: refused.Reason}
	case err != nil:
		a.log.ErrorContext(ctx, "token could not be checked", "error", err)
		return authenticationv1.TokenReviewStatus{Error: "internal error"}
	}
	// The API server asks for its own --api-audiences and takes only an answer
	// that names one of them; without any in the answer it would assume its own
	// (apiserver v0.37, plugin/pkg/authenticator/token/webhook: AuthenticateToken).
	// So what we name is what the token says, our config accepts and the caller asked.
	var audiences []string
	if len(spec.Audiences) > 0 {
		for _, aud := range spec.Audiences {
			if slices.Contains(v.audiences, aud) && !slices.Contains(audiences, aud) {
				audiences = append(audiences, aud)
			}
		}
		if len(audiences) == 0 {
			reason := fmt.Sprintf("issuer %q: token is for none of the audiences that the API server asks for (its --api-audiences)", v.agent.Issuer)
			a.log.InfoContext(ctx, "token refused", "reason", reason)
			return authenticationv1.TokenReviewStatus{Error: reason}
		}
	}
	return authenticationv1.TokenReviewStatus{Authenticated: true, User: userInfo(v.agent), Audiences: audiences}
}

func userInfo(agent v1alpha1.Agent) authenticationv1.UserInfo {
	extra := map[string]authenticationv1.ExtraValue{}
	for k, v := range agent.Extra() {
		extra[k] = v
	}
	return authenticationv1.UserInfo{Username: agent.User, Groups: agent.Groups(), Extra: extra}
}

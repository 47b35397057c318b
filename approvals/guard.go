package approvals

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/access"
	"github.com/tipstaff-dev/tipstaff/internal/admissionreview"
	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
)

// maxGuardBytes caps one review of the guard: old and new object, each of at
// most the API server's 3 MiB, and the envelope.
const maxGuardBytes = 7 << 20

// Bounds are what the configuration says of who is an agent and what may be
// granted. Empty means that only tokens make agents, and that no grant is allowed.
type Bounds struct {
	Agents *clusteragents.Config
	Access *access.Limits
}

// guard is the validating webhook over tipstaff's own objects. Its right is
// refusal; what it can't read, it refuses.
type guard struct {
	// mayApprove asks the API server whether a person has the verb "approve" on
	// the approval of that name.
	mayApprove func(ctx context.Context, user authenticationv1.UserInfo, name string) (bool, error)
	self       func() string // tipstaff's own username, empty while unknown
	bounds     Bounds
	now        func() time.Time
	log        *slog.Logger
}

func (g *guard) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /guard", g.serve)
	return mux
}

func (g *guard) serve(w http.ResponseWriter, r *http.Request) {
	rev, err := admissionreview.Read(http.MaxBytesReader(w, r.Body, maxGuardBytes), r.ContentLength)
	if err != nil {
		g.log.WarnContext(r.Context(), "guard got a malformed review", "error", err)
		http.Error(w, "malformed admission review", http.StatusBadRequest)
		return
	}
	resp := g.review(r, rev.Request)
	out, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: admissionv1.SchemeGroupVersion.String(), Kind: "AdmissionReview"},
		Response: resp,
	})
	if err != nil {
		http.Error(w, "answer can't be encoded", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(out) // a caller that went away refuses by itself (failurePolicy: Fail)
}

func (g *guard) review(r *http.Request, req *admissionv1.AdmissionRequest) (resp *admissionv1.AdmissionResponse) {
	refuse := func(code int32, reason metav1.StatusReason, text string) *admissionv1.AdmissionResponse {
		return &admissionv1.AdmissionResponse{UID: req.UID, Result: &metav1.Status{
			Status: metav1.StatusFailure, Code: code, Reason: reason, Message: text,
		}}
	}
	defer func() {
		if p := recover(); p != nil {
			g.log.ErrorContext(r.Context(), "guard panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			resp = refuse(http.StatusInternalServerError, metav1.StatusReasonInternalError, "refused: tipstaff could not check this change")
		}
	}()
	c := change{
		operation: string(req.Operation), resource: req.Resource.Resource, subresource: req.SubResource, user: req.UserInfo,
	}
	if err := c.decode(req.OldObject.Raw, req.Object.Raw); err != nil {
		return refuse(http.StatusBadRequest, metav1.StatusReasonBadRequest, "refused: tipstaff could not read the object")
	}
	if why := refusal(c, g.bounds, g.self(), g.now()); why != "" {
		g.log.InfoContext(r.Context(), "guard refused", "user", req.UserInfo.Username, "operation", c.operation,
			"resource", c.resource, "subresource", c.subresource, "name", req.Name, "reason", why)
		return refuse(http.StatusForbidden, metav1.StatusReasonForbidden, why)
	}
	if c.decides() {
		may, err := g.mayApprove(r.Context(), req.UserInfo, c.old.Name)
		switch {
		case err != nil:
			g.log.WarnContext(r.Context(), "right to decide could not be looked up, refused", "user", req.UserInfo.Username, "name", req.Name, "error", err)
			return refuse(http.StatusInternalServerError, metav1.StatusReasonInternalError, "refused: tipstaff could not ask whether you may decide; try again")
		case !may:
			return refuse(http.StatusForbidden, metav1.StatusReasonForbidden,
				fmt.Sprintf("%s lacks the verb %q on approvals.%s: a role such as tipstaff-approver gives it", req.UserInfo.Username, verbApprove, v1alpha1.Group))
		}
	}
	return &admissionv1.AdmissionResponse{UID: req.UID, Allowed: true}
}

// verbApprove is what RBAC must give who decides, approving or denying.
const verbApprove = "approve"

// decides reports whether c, which is allowed otherwise, adds a decision.
func (c *change) decides() bool {
	return c.resource == "approvals" && c.subresource == "status" && c.old != nil && c.new != nil &&
		len(c.new.Status.Decisions) > len(c.old.Status.Decisions)
}

// mayApprove asks by a SubjectAccessReview, as the API server itself authorizes.
func (s *Store) mayApprove(ctx context.Context, user authenticationv1.UserInfo, name string) (bool, error) {
	extra := make(map[string]authorizationv1.ExtraValue, len(user.Extra))
	for k, v := range user.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	r := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: verbApprove, Group: v1alpha1.Group, Version: v1alpha1.GroupVersion.Version, Resource: "approvals", Name: name,
		},
		User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
	}}
	if err := s.client.Create(ctx, r); err != nil {
		return false, fmt.Errorf("review the access of %s: %w", user.Username, err)
	}
	return r.Status.Allowed && !r.Status.Denied, nil
}

// decode reads the old and the new object of a change.
func (c *change) decode(oldRaw, newRaw []byte) (err error) {
	switch c.resource {
	case "approvals":
		c.old, c.new, err = pair[v1alpha1.Approval](oldRaw, newRaw)
	case "grants":
		c.oldGrant, c.newGrant, err = pair[v1alpha1.Grant](oldRaw, newRaw)
	case "revocations":
		c.oldRev, c.newRev, err = pair[v1alpha1.Revocation](oldRaw, newRaw)
	}
	return err
}

func pair[T any](oldRaw, newRaw []byte) (before, after *T, err error) {
	if before, err = strictly[T](oldRaw); err == nil {
		after, err = strictly[T](newRaw)
	}
	return before, after, err
}

// strictly reads an object of which nothing may go unseen; nil where there is none.
func strictly[T any](raw []byte) (*T, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	obj := new(T)
	strict, err := kjson.UnmarshalStrict(raw, obj)
	if err != nil {
		return nil, err
	}
	if len(strict) > 0 {
		return nil, fmt.Errorf("%d fields unknown or given twice", len(strict))
	}
	return obj, nil
}

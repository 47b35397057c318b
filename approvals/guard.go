package approvals

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/admissionreview"
)

// maxGuardBytes caps one review of the guard: old and new object, each of at
// most the API server's 3 MiB, and the envelope.
const maxGuardBytes = 7 << 20

// guard is the validating webhook over tipstaff's own objects. Its right is
// refusal; what it can't read, it refuses.
type guard struct {
	self func() string // tipstaff's own username, empty while unknown
	now  func() time.Time
	log  *slog.Logger
}

func (g *guard) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /guard", g.serve)
	return mux
}

func (g *guard) serve(w http.ResponseWriter, r *http.Request) {
	req, err := admissionreview.Read(http.MaxBytesReader(w, r.Body, maxGuardBytes))
	if err != nil {
		g.log.WarnContext(r.Context(), "guard got a malformed review", "error", err)
		http.Error(w, "malformed admission review", http.StatusBadRequest)
		return
	}
	resp := g.review(r, req)
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
	var err error
	if c.resource == "approvals" {
		if c.old, err = approvalIn(req.OldObject.Raw); err == nil {
			c.new, err = approvalIn(req.Object.Raw)
		}
		if err != nil {
			return refuse(http.StatusBadRequest, metav1.StatusReasonBadRequest, "refused: tipstaff could not read the approval")
		}
	}
	if why := refusal(c, g.self(), g.now()); why != "" {
		g.log.InfoContext(r.Context(), "guard refused", "user", req.UserInfo.Username, "operation", c.operation,
			"resource", c.resource, "subresource", c.subresource, "name", req.Name, "reason", why)
		return refuse(http.StatusForbidden, metav1.StatusReasonForbidden, why)
	}
	return &admissionv1.AdmissionResponse{UID: req.UID, Allowed: true}
}

// approvalIn reads an approval strictly; nil where there is none.
func approvalIn(raw []byte) (*v1alpha1.Approval, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var a v1alpha1.Approval
	strict, err := kjson.UnmarshalStrict(raw, &a)
	if err != nil {
		return nil, err
	}
	if len(strict) > 0 {
		return nil, fmt.Errorf("%d fields unknown or given twice", len(strict))
	}
	return &a, nil
}

package proxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// waitHeader is how long a client lets a held change wait: a Go duration, or
// whole seconds. As cleanHeaders has it, in lower case.
const waitHeader = "tipstaff-wait"

// asked is how long a request with these headers may wait.
func (h *holds) asked(header http.Header) (time.Duration, *apierrors.StatusError) {
	values := header.Values(waitHeader)
	if len(values) == 0 {
		return h.most, nil
	}
	d, ok := parseWait(values[0])
	if !ok || len(values) > 1 {
		return 0, apierrors.NewBadRequest("the header Tipstaff-Wait is how long a held change may wait: one duration such as 90s or 10m, or seconds; 0 is not at all")
	}
	return min(d, h.most), nil
}

// parseWait reads a duration or seconds; false means that it is neither.
func parseWait(s string) (time.Duration, bool) {
	s = strings.TrimSpace(s)
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second, true
	}
	d, err := time.ParseDuration(s)
	return d, err == nil && d >= 0
}

// maxHeldBytes is what the webhook's 429 takes at most: its message is below
// 4 KiB, its causes shorter.
const maxHeldBytes = 32 << 10

// maxAfter is the longest Retry-After that the webhook gives.
const maxAfter = time.Minute

// held is an answer that says that the request is held.
type held struct {
	resp     *http.Response
	body     []byte // the whole answer's
	status   metav1.Status
	approval string
	phase    v1alpha1.Phase
	after    time.Duration
}

// heldBy reads the webhook's 429 that says which approval holds the request.
// Nil means that resp is another answer; it can be passed on as it is then.
func heldBy(resp *http.Response) *held {
	if resp.StatusCode != http.StatusTooManyRequests || resp.Body == nil {
		return nil
	}
	mt, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if enc := resp.Header.Get("Content-Encoding"); err != nil || mt != "application/json" || enc != "" && enc != "identity" {
		return nil
	}
	src := resp.Body
	body, err := io.ReadAll(io.LimitReader(src, maxHeldBytes+1))
	if err != nil || len(body) > maxHeldBytes {
		rest := io.Reader(src)
		if err != nil {
			rest = broken{err}
		}
		resp.Body = &rejoined{io.MultiReader(bytes.NewReader(body), rest), src}
		return nil
	}
	_ = src.Close() // read to its end
	resp.Body = io.NopCloser(bytes.NewReader(body))
	a := parseHeld(body)
	if a == nil {
		return nil
	}
	a.resp = resp
	return a
}

// rejoined is a body of which a part was read.
type rejoined struct {
	io.Reader
	io.Closer
}

// broken fails as a read did before.
type broken struct{ err error }

// Read fails.
func (b broken) Read([]byte) (int, error) { return 0, b.err }

// parseHeld reads a Status by whose causes an approval holds the request.
func parseHeld(body []byte) *held {
	a := &held{body: body}
	if err := json.Unmarshal(body, &a.status); err != nil || a.status.Kind != "Status" || a.status.Details == nil {
		return nil
	}
	said := map[metav1.CauseType]string{}
	for _, c := range a.status.Details.Causes {
		if _, twice := said[c.Type]; twice {
			return nil
		}
		said[c.Type] = c.Message
	}
	a.approval, a.phase = said[v1alpha1.CauseApproval], v1alpha1.Phase(said[v1alpha1.CauseState])
	if said[v1alpha1.CauseReason] != v1alpha1.ReasonHeld || len(validation.IsDNS1123Subdomain(a.approval)) > 0 ||
		!slices.Contains([]v1alpha1.Phase{v1alpha1.PhasePending, v1alpha1.PhaseApproved, v1alpha1.PhaseUsed}, a.phase) {
		return nil
	}
	a.after = min(max(time.Duration(a.status.Details.RetryAfterSeconds)*time.Second, time.Second), maxAfter)
	return a
}

// answer is the answer as it came.
func (a *held) answer() *http.Response {
	a.resp.Body = io.NopCloser(bytes.NewReader(a.body))
	return a.resp
}

// expired is the answer once the approval has ended. It is the proxy's own: the
// same request sent again would be a new question to people.
func (a *held) expired() *http.Response {
	st := *a.status.DeepCopy()
	st.Code, st.Reason = http.StatusForbidden, metav1.StatusReasonForbidden
	st.Message = fmt.Sprintf("approval %s, by which this change was held, ended without being used. Nothing has changed.", a.approval)
	st.Details.RetryAfterSeconds = 0
	for i := range st.Details.Causes {
		switch c := &st.Details.Causes[i]; c.Type {
		case v1alpha1.CauseReason:
			c.Message = v1alpha1.ReasonExpired
		case v1alpha1.CauseState:
			c.Message = string(v1alpha1.PhaseExpired)
		}
	}
	return a.instead(&apierrors.StatusError{ErrStatus: st})
}

// instead is an answer of the proxy's own in the place of the one that came.
func (a *held) instead(why *apierrors.StatusError) *http.Response {
	status := statusOf(why)
	body, err := json.Marshal(status)
	if err != nil {
		return a.answer() // a Status of ours always encodes; this one refuses too
	}
	resp := *a.resp
	resp.StatusCode, resp.Status = int(status.Code), fmt.Sprintf("%d %s", status.Code, http.StatusText(int(status.Code)))
	resp.Header = http.Header{"Content-Type": {"application/json"}, "Content-Length": {strconv.Itoa(len(body))}}
	resp.Body, resp.ContentLength, resp.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	return &resp
}

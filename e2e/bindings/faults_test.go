package bindings_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// A replica that removes what it takes for expired comes too late for one that
// another replica extended a moment ago.
func TestOneThatWasJustExtendedSurvives(t *testing.T) {
	short := limits
	short.Grace.Duration = time.Second
	ns, run := namespace(t), agent(t)
	arrived, release, answered := make(chan struct{}, 1), make(chan struct{}), make(chan int, 1)
	slow := rest.CopyConfig(admin)
	slow.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Method != http.MethodDelete || !strings.Contains(r.URL.Path, ns) {
				return next.RoundTrip(r)
			}
			arrived <- struct{}{}
			<-release
			resp, err := next.RoundTrip(r)
			if err == nil {
				answered <- resp.StatusCode
			}
			return resp, err
		})
	})
	c, _ := start(t, options{as: slow, limits: &short})
	if err := c.Ensure(t.Context(), run, in(reader, ns), time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	<-arrived // its time is over, and the removal is under way
	patch(t, ofRun(t, ns, run)[0], fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.AnnotationExpiresAt, hour().Format(time.RFC3339)))
	close(release)
	if code := <-answered; code != http.StatusConflict {
		t.Errorf("the removal was answered with %d", code)
	}
	if err := lists(t.Context(), as(t, run), ns); err != nil {
		t.Error(err)
	}
}

// Whatever goes wrong with the API server, the token is refused, and soon.
func TestFaultsRefuse(t *testing.T) {
	answer := func(code int, body string) *http.Response {
		return &http.Response{
			StatusCode: code, Status: http.StatusText(code), ProtoMajor: 1, ProtoMinor: 1,
			Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)),
		}
	}
	const (
		reviews  = "/subjectaccessreviews"
		creation = "/rolebindings"
	)
	for _, tc := range []struct {
		name  string
		fault func(context.Context, string) (*http.Response, error)
		want  string
		least time.Duration
	}{
		{"the API server is away", func(_ context.Context, path string) (*http.Response, error) {
			if strings.HasSuffix(path, creation) {
				return nil, errors.New("connection refused")
			}
			return nil, nil
		}, "connection refused", 0},
		{"it refuses", func(_ context.Context, path string) (*http.Response, error) {
			if strings.HasSuffix(path, creation) {
				return answer(http.StatusForbidden, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","message":"no, not you","code":403}`), nil
			}
			return nil, nil
		}, "no, not you", 0},
		{"its authorizer never learns of the binding", func(_ context.Context, path string) (*http.Response, error) {
			if strings.HasSuffix(path, reviews) {
				return answer(http.StatusCreated, `{"kind":"SubjectAccessReview","apiVersion":"authorization.k8s.io/v1","spec":{},"status":{"allowed":false}}`), nil
			}
			return nil, nil
		}, "authorizer was not seen to apply it within 3s", 2900 * time.Millisecond},
		{"it hangs", func(ctx context.Context, path string) (*http.Response, error) {
			if strings.HasSuffix(path, reviews) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return nil, nil
		}, "authorizer was not seen to apply it within 3s", 2900 * time.Millisecond},
		{"access reviews are forbidden", func(_ context.Context, path string) (*http.Response, error) {
			if strings.HasSuffix(path, reviews) {
				return answer(http.StatusForbidden, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","message":"no reviews","code":403}`), nil
			}
			return nil, nil
		}, "no reviews", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, _ := start(t, options{as: intercepted(func(r *http.Request) (*http.Response, error) {
				if r.Method != http.MethodPost {
					return nil, nil
				}
				return tc.fault(r.Context(), r.URL.Path)
			})})
			ns, run := namespace(t), agent(t)
			began := time.Now()
			err := c.Ensure(t.Context(), run, in(reader, ns), hour())
			took := time.Since(began)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v", err)
			}
			if took < tc.least || took > tc.least+3*time.Second {
				t.Errorf("after %s", took)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			began = time.Now()
			if err := c.Ensure(ctx, run, in(reader, ns), hour()); err == nil {
				t.Error("the second review lets it in")
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("a caller with one second waited %s", took)
			}
		})
	}
}

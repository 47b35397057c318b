package bindings_test

import (
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// countingTransport counts what a client sends, but for lists and watches.
type countingTransport struct {
	mu   sync.Mutex
	sent []string
	next http.RoundTripper
}

func (c *countingTransport) wrap(next http.RoundTripper) http.RoundTripper {
	c.next = next
	return c
}

func (c *countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	q := r.URL.Query()
	if r.Method != http.MethodGet || !q.Has("resourceVersion") && !q.Has("watch") {
		c.mu.Lock()
		c.sent = append(c.sent, r.Method+" "+r.URL.Path)
		c.mu.Unlock()
	}
	return c.next.RoundTrip(r)
}

func (c *countingTransport) writes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.sent)
}

func (c *countingTransport) count(method, what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, s := range c.sent {
		if strings.HasPrefix(s, method+" ") && strings.HasSuffix(s, what) {
			n++
		}
	}
	return n
}

func newLog(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(logOf(t), nil)) }

func expires(t *testing.T, b rbacv1.RoleBinding) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, b.Annotations[v1alpha1.AnnotationExpiresAt])
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// put makes a RoleBinding of the role outside, as some other program would.
func put(t *testing.T, ns, name string, labels, annotations map[string]string) string {
	t.Helper()
	_, err := kube.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels, Annotations: annotations},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: outside},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func patch(t *testing.T, b rbacv1.RoleBinding, text string) {
	t.Helper()
	_, err := kube.RbacV1().RoleBindings(b.Namespace).Patch(t.Context(), b.Name, types.MergePatchType, []byte(text), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func configMap(name string, finalizers ...string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: finalizers}}
}

// interceptor stands between a client and the API server, for the faults that a
// healthy one doesn't show. A nil answer lets the request through.
type interceptor func(*http.Request) (*http.Response, error)

func (i interceptor) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if resp, err := i(r); resp != nil || err != nil {
			return resp, err
		}
		return next.RoundTrip(r)
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func intercepted(i interceptor) *rest.Config {
	cfg := rest.CopyConfig(admin)
	cfg.Wrap(i.wrap)
	return cfg
}

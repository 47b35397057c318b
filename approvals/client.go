package approvals

import (
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// scheme knows what this package reads and writes.
func scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(s); err != nil {
		return nil, fmt.Errorf("register %s: %w", v1alpha1.GroupVersion, err)
	}
	if err := authenticationv1.AddToScheme(s); err != nil {
		return nil, fmt.Errorf("register %s: %w", authenticationv1.SchemeGroupVersion, err)
	}
	if err := authorizationv1.AddToScheme(s); err != nil {
		return nil, fmt.Errorf("register %s: %w", authorizationv1.SchemeGroupVersion, err)
	}
	return s, nil
}

// mapper is fixed, so that no discovery is needed: an API server that is not
// there yet, or lacks the CRD yet, fails the one call and not the start.
func mapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	for _, kind := range []string{"Approval", "Grant", "Revocation"} {
		m.Add(v1alpha1.GroupVersion.WithKind(kind), meta.RESTScopeRoot)
	}
	m.Add(authenticationv1.SchemeGroupVersion.WithKind("SelfSubjectReview"), meta.RESTScopeRoot)
	m.Add(authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview"), meta.RESTScopeRoot)
	return m
}

// NewClient gives a client for approvals, grants and revocations that reads live. It opens no connection yet.
func NewClient(cfg *rest.Config) (client.WithWatch, error) {
	s, err := scheme()
	if err != nil {
		return nil, err
	}
	cfg = rest.CopyConfig(cfg)
	// The API server's own priority and fairness is the limit; a queue here
	// would only eat the admission deadline.
	cfg.QPS = -1
	c, err := client.NewWithWatch(cfg, client.Options{Scheme: s, Mapper: mapper()})
	if err != nil {
		return nil, fmt.Errorf("make a client for %s: %w", cfg.Host, err)
	}
	return c, nil
}

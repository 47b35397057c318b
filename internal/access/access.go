// Package access holds the bounds of what Tipstaff's bindings may give: which
// cluster roles, where, and for how long. Profiles, grants, the guard and the
// generated RBAC of Tipstaff itself all read the same bounds, so nothing can be
// bound that the configuration doesn't allow.
package access

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Defaults and bounds of the optional settings.
const (
	defaultGrace      = 5 * time.Minute
	maxGrace          = 24 * time.Hour
	defaultMaxGrant   = 8 * time.Hour
	maxMaxGrant       = 30 * 24 * time.Hour
	defaultRetention  = 24 * time.Hour
	maxNamespaces     = 32
	tipstaffNamespace = "tipstaff-system"
)

// Limits are the "access" section of the file. Empty means that nothing is
// ever bound.
type Limits struct {
	// ClusterRoles are the roles that a run's bindings and grants may name.
	// Tipstaff's own right to bind is for these and no other.
	ClusterRoles []string `json:"clusterRoles,omitempty"`
	// Namespaces are patterns (*, ?, [a-z]; path.Match) of the namespaces where
	// they may be bound. Empty means every one but those that start with kube-.
	// None of them is tipstaff-system, whatever the patterns.
	Namespaces []string `json:"namespaces,omitempty"`
	// ClusterWide allows bindings that hold in the whole cluster: namespaces ['*'].
	ClusterWide bool `json:"clusterWide,omitempty"`
	// Grace is how long a run's bindings outlive its last token. Zero means 5m.
	Grace metav1.Duration `json:"grace,omitempty"`
	// MaxGrant bounds a grant's ttl. Zero means 8h.
	MaxGrant metav1.Duration `json:"maxGrant,omitempty"`
	// Retention is how long a grant stays as an object after it ended. Zero means 24h.
	Retention metav1.Duration `json:"retention,omitempty"`
}

// Validate reports everything wrong with l.
func (l *Limits) Validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, r := range l.ClusterRoles {
		at := at.Child("clusterRoles").Index(i)
		switch {
		case r == "":
			errs = append(errs, field.Required(at, "a cluster role's name"))
		case r == "cluster-admin" || strings.HasPrefix(r, "system:"):
			errs = append(errs, field.Invalid(at, r, "is not for agents: it holds more than any agent may get"))
		case strings.ContainsAny(r, "/%*") || strings.TrimSpace(r) != r || r == "." || r == "..":
			errs = append(errs, field.Invalid(at, r, "is no cluster role's name"))
		case slices.Index(l.ClusterRoles, r) < i:
			errs = append(errs, field.Duplicate(at, r))
		}
	}
	for i, p := range l.Namespaces {
		at := at.Child("namespaces").Index(i)
		if p == "" {
			errs = append(errs, field.Required(at, "a pattern of namespaces"))
		} else if _, err := path.Match(p, ""); err != nil || strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789-*?[]^") != "" {
			errs = append(errs, field.Invalid(at, p, "is no pattern of namespaces: lower-case letters, digits, hyphens, *, ? and [a-z]"))
		}
	}
	for _, d := range []struct {
		name string
		d    time.Duration
		max  time.Duration
	}{
		{"grace", l.Grace.Duration, maxGrace},
		{"maxGrant", l.MaxGrant.Duration, maxMaxGrant},
		{"retention", l.Retention.Duration, maxMaxGrant},
	} {
		if d.d < 0 || d.d > d.max {
			errs = append(errs, field.Invalid(at.Child(d.name), d.d.String(), fmt.Sprintf("must be between 0 and %s", d.max)))
		}
	}
	return errs
}

// Allows says why a can't be bound; nil when it can. The error continues a
// sentence and quotes only names from the configuration.
func (l *Limits) Allows(a v1alpha1.Access) error {
	if !slices.Contains(l.ClusterRoles, a.ClusterRole) {
		return fmt.Errorf("the cluster role is none of access.clusterRoles")
	}
	if a.Path != "" && a.Path != v1alpha1.PathProxy && a.Path != v1alpha1.PathDirect {
		return fmt.Errorf("the path is neither proxy nor direct")
	}
	if len(a.Namespaces) == 0 {
		return fmt.Errorf("it names no namespace")
	}
	if len(a.Namespaces) > maxNamespaces {
		return fmt.Errorf("it names more than %d namespaces", maxNamespaces)
	}
	if slices.Contains(a.Namespaces, v1alpha1.Everywhere) {
		if len(a.Namespaces) > 1 {
			return fmt.Errorf("'*' does not stand alone")
		}
		if !l.ClusterWide {
			return fmt.Errorf("access.clusterWide does not allow the whole cluster")
		}
		return nil
	}
	for _, ns := range a.Namespaces {
		if len(validation.IsDNS1123Label(ns)) > 0 {
			return fmt.Errorf("it names what is no namespace")
		}
		if !l.allowsNamespace(ns) {
			return fmt.Errorf("access.namespaces does not allow a namespace that it names")
		}
	}
	return nil
}

func (l *Limits) allowsNamespace(ns string) bool {
	if ns == tipstaffNamespace {
		return false // who may act there can become Tipstaff
	}
	if len(l.Namespaces) == 0 {
		return !strings.HasPrefix(ns, "kube-")
	}
	return slices.ContainsFunc(l.Namespaces, func(p string) bool {
		ok, err := path.Match(p, ns)
		return err == nil && ok
	})
}

// AllowsGrant says why a grant of that access and time to live can't be; nil
// when it can.
func (l *Limits) AllowsGrant(g *v1alpha1.Grant) error {
	if err := l.Allows(g.Access()); err != nil {
		return err
	}
	if ttl := g.Spec.TTL.Duration; ttl < time.Second || ttl > l.GrantBound() {
		return fmt.Errorf("its ttl is not between 1s and %s (access.maxGrant)", l.GrantBound())
	}
	return nil
}

// GrantBound is the longest that a grant may hold.
func (l *Limits) GrantBound() time.Duration { return or(l.MaxGrant.Duration, defaultMaxGrant) }

// GraceOrDefault is how long a run's bindings outlive its last token.
func (l *Limits) GraceOrDefault() time.Duration { return or(l.Grace.Duration, defaultGrace) }

// RetentionOrDefault is how long an ended grant stays.
func (l *Limits) RetentionOrDefault() time.Duration {
	return or(l.Retention.Duration, defaultRetention)
}

func or(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

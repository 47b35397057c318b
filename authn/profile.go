package authn

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/access"
)

// profile is a compiled Profile.
type profile struct {
	access []profileAccess
	limits *access.Limits
}

type profileAccess struct {
	roles, namespaces         []string
	rolesFrom, namespacesFrom *expression // nil where all is fixed
	path                      v1alpha1.Path
}

// compileProfiles compiles profiles and reports everything in them that doesn't
// hold, what limits don't allow included.
func compileProfiles(profiles []Profile, limits *access.Limits, at *field.Path) (map[string]*profile, field.ErrorList) {
	var errs field.ErrorList
	compiled := map[string]*profile{}
	for i := range profiles {
		p, at := &profiles[i], at.Index(i)
		switch err := checkProfile(p.Name); {
		case p.Name == "":
			errs = append(errs, field.Required(at.Child("name"), "what a mapping's profile gives"))
		case err != nil:
			errs = append(errs, field.Invalid(at.Child("name"), p.Name, err.Error()))
		case compiled[p.Name] != nil:
			errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
		}
		c := &profile{limits: limits}
		for j := range p.Access {
			a, faults := compileAccess(&p.Access[j], limits, at.Child("access").Index(j))
			errs = append(errs, faults...)
			c.access = append(c.access, a)
		}
		if len(p.Access) == 0 {
			errs = append(errs, field.Required(at.Child("access"), "what runs of the profile get; a profile that gives nothing needs no entry"))
		}
		compiled[p.Name] = c
	}
	return compiled, errs
}

func compileAccess(a *ProfileAccess, limits *access.Limits, at *field.Path) (profileAccess, field.ErrorList) {
	var errs field.ErrorList
	from := func(name, text string) *expression {
		if text == "" {
			return nil
		}
		e, err := compileExpression(text, cel.ListType(cel.StringType), cel.ListType(cel.DynType), cel.ListType(cel.AnyType))
		if err != nil {
			errs = append(errs, field.Invalid(at.Child(name), text, err.Error()))
		}
		return e
	}
	c := profileAccess{
		roles: a.ClusterRoles, namespaces: a.Namespaces, path: a.Path,
		rolesFrom: from("clusterRolesFrom", a.ClusterRolesFrom), namespacesFrom: from("namespacesFrom", a.NamespacesFrom),
	}
	if c.path == "" {
		c.path = v1alpha1.PathProxy
	}
	if c.path != v1alpha1.PathProxy && c.path != v1alpha1.PathDirect {
		errs = append(errs, field.NotSupported(at.Child("path"), a.Path, []v1alpha1.Path{v1alpha1.PathProxy, v1alpha1.PathDirect}))
	}
	if len(a.ClusterRoles) == 0 && a.ClusterRolesFrom == "" {
		errs = append(errs, field.Required(at.Child("clusterRoles"), "cluster roles of access.clusterRoles, or clusterRolesFrom"))
	}
	if len(a.Namespaces) == 0 && a.NamespacesFrom == "" {
		errs = append(errs, field.Required(at.Child("namespaces"), "namespaces, ['*'] for the whole cluster, or namespacesFrom"))
	}
	for i, role := range a.ClusterRoles {
		if !slices.Contains(limits.ClusterRoles, role) {
			errs = append(errs, field.Invalid(at.Child("clusterRoles").Index(i), role, "is none of access.clusterRoles"))
		}
	}
	// Each namespace is tried with a role that is allowed, so that what is said
	// is about the namespace.
	if len(limits.ClusterRoles) > 0 {
		before := len(errs)
		for i, ns := range a.Namespaces {
			try := v1alpha1.Access{ClusterRole: limits.ClusterRoles[0], Namespaces: []string{ns}}
			if err := limits.Allows(try); err != nil {
				errs = append(errs, field.Invalid(at.Child("namespaces").Index(i), ns, err.Error()))
			}
		}
		if len(a.Namespaces) > 0 && before == len(errs) {
			try := v1alpha1.Access{ClusterRole: limits.ClusterRoles[0], Namespaces: a.Namespaces}
			if err := limits.Allows(try); err != nil {
				errs = append(errs, field.Invalid(at.Child("namespaces"), a.Namespaces, err.Error()))
			}
		}
	}
	if slices.Contains(a.Namespaces, v1alpha1.Everywhere) && a.NamespacesFrom != "" {
		errs = append(errs, field.Forbidden(at.Child("namespacesFrom"), "'*' already is every namespace"))
	}
	return c, errs
}

// of is what p gives to a run whose token holds claims. What comes out is within
// the limits, or an error says what isn't: nothing of it is given then. Errors
// quote no claim.
func (p *profile) of(claims *variable, tr *trace) ([]v1alpha1.Access, error) {
	if p == nil {
		return nil, nil
	}
	var all []v1alpha1.Access
	for i, a := range p.access {
		add := func(name string, fixed []string, from *expression) ([]string, error) {
			if from == nil {
				return fixed, nil
			}
			tr.uses(from)
			more, err := from.strings(claims)
			if err == nil && slices.Contains(more, v1alpha1.Everywhere) {
				err = errors.New("gives '*': the whole cluster is for the configuration to give, not for a claim")
			}
			if err != nil {
				return nil, fmt.Errorf("access[%d].%s %w", i, name, err)
			}
			return distinctNames(fixed, more), nil
		}
		roles, err := add("clusterRolesFrom", a.roles, a.rolesFrom)
		if err != nil {
			return nil, err
		}
		namespaces, err := add("namespacesFrom", a.namespaces, a.namespacesFrom)
		if err != nil {
			return nil, err
		}
		if len(namespaces) == 0 {
			continue // the claims name none: nothing is given
		}
		for _, role := range roles {
			x := v1alpha1.Access{ClusterRole: role, Namespaces: namespaces, Path: a.path}
			if err := p.limits.Allows(x); err != nil {
				return nil, fmt.Errorf("access[%d]: %w", i, err)
			}
			all = append(all, x)
		}
	}
	return all, nil
}

func distinctNames(fixed, more []string) []string {
	list := slices.Clone(fixed)
	for _, s := range more {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

package authn

import (
	"fmt"

	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// mapping is a compiled Mapping. A nil expression is an empty optional one.
type mapping struct {
	label                                            string
	match, subject, run, model, owner, task, profile *expression
}

// labelOf is how a mapping is called in logs, metrics and reports.
func labelOf(name string, i int) string {
	if name != "" {
		return name
	}
	return fmt.Sprintf("mappings[%d]", i)
}

// compile compiles m and reports every expression that doesn't hold.
func compile(m *Mapping, at *field.Path) (*mapping, field.ErrorList) {
	var errs field.ErrorList
	compiled := func(name, text string, want *cel.Type) *expression {
		if text == "" {
			return nil
		}
		e, err := compileExpression(text, want)
		if err != nil {
			errs = append(errs, field.Invalid(at.Child(name), text, err.Error()))
		}
		return e
	}
	condition := func(name, text string) *expression {
		if text == "" {
			return nil
		}
		e, err := compileCondition(text)
		if err != nil {
			errs = append(errs, field.Invalid(at.Child(name), text, err.Error()))
		}
		return e
	}
	or := func(text, otherwise string) string {
		if text == "" {
			return otherwise
		}
		return text
	}
	if m.Name != "" && !issuerName.MatchString(m.Name) {
		errs = append(errs, field.Invalid(at.Child("name"), m.Name, "must be at most 63 lower-case letters, digits and hyphens"))
	}
	if m.Run == "" {
		errs = append(errs, field.Required(at.Child("run"), "every agent belongs to a run; such as claims.run_id"))
	}
	return &mapping{
		match:   condition("match", m.Match),
		subject: compiled("subject", or(m.Subject, "claims.sub"), cel.StringType),
		run:     compiled("run", m.Run, cel.StringType),
		model:   compiled("model", m.Model, cel.StringType),
		owner:   compiled("owner", m.Owner, cel.StringType),
		task:    compiled("task", m.Task, cel.StringType),
		profile: compiled("profile", or(m.Profile, "'default'"), cel.StringType),
	}, errs
}

// matches reports whether m is for the token. Errors name the mapping's field,
// never a claim's value.
func (m *mapping) matches(claims *variable, tr *trace) (bool, error) {
	if m.match == nil {
		return true, nil
	}
	tr.uses(m.match)
	ok, err := m.match.bool(claims)
	if err != nil {
		return false, fmt.Errorf("match %w", err)
	}
	return ok, nil
}

// agent is who claims stand for according to m, for a token that m matches.
// Errors name the mapping's field, never a claim's value.
func (m *mapping) agent(issuer string, claims *variable, tr *trace) (v1alpha1.Agent, error) {
	a := v1alpha1.Agent{Issuer: issuer}
	var subject string
	for _, f := range [...]struct {
		name  string
		expr  *expression
		to    *string
		check func(string) error
	}{
		{"subject", m.subject, &subject, checkSubject},
		{"run", m.run, &a.Run, checkRun},
		{"model", m.model, &a.Model, checkText},
		{"owner", m.owner, &a.Owner, checkText},
		{"task", m.task, &a.Task, checkText},
		{"profile", m.profile, &a.Profile, checkProfile},
	} {
		if f.expr == nil {
			continue
		}
		tr.uses(f.expr)
		s, err := f.expr.string(claims)
		if err == nil {
			err = f.check(s)
		}
		if err != nil {
			return v1alpha1.Agent{}, fmt.Errorf("%s %w", f.name, err)
		}
		*f.to = s
	}
	a.User = v1alpha1.UserPrefix + issuer + ":" + subject
	return a, nil
}

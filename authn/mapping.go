package authn

import (
	"errors"
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// maxExpressionBytes caps one CEL expression of the config; it keeps a slip of
// the editor from becoming a program that costs memory to compile.
const maxExpressionBytes = 4 << 10

// mapping is a compiled Mapping. A nil program is an empty optional expression.
type mapping struct {
	match, subject, run, model, owner, task, profile cel.Program
}

// claimsEnv is Kubernetes' CEL environment with its libraries and cost limits,
// and the variable claims as in the API server's structured authentication
// (apiserver v0.37, pkg/authentication/cel).
var claimsEnv = sync.OnceValues(func() (*cel.Env, error) {
	set, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0),
		EnvOptions:        []cel.EnvOption{cel.Variable("claims", cel.MapType(cel.StringType, cel.DynType))},
	})
	if err != nil {
		return nil, fmt.Errorf("make the CEL environment: %w", err)
	}
	return set.Env(environment.StoredExpressions)
})

// compile compiles m and reports every expression that doesn't hold.
func compile(m *Mapping, at *field.Path) (*mapping, field.ErrorList) {
	var errs field.ErrorList
	program := func(name, expression string, want *cel.Type) cel.Program {
		if expression == "" {
			return nil
		}
		p, err := compileExpression(expression, want)
		if err != nil {
			errs = append(errs, field.Invalid(at.Child(name), expression, err.Error()))
		}
		return p
	}
	or := func(expression, otherwise string) string {
		if expression == "" {
			return otherwise
		}
		return expression
	}
	if m.Run == "" {
		errs = append(errs, field.Required(at.Child("run"), "every agent belongs to a run; such as claims.run_id"))
	}
	return &mapping{
		match:   program("match", or(m.Match, "true"), cel.BoolType),
		subject: program("subject", or(m.Subject, "claims.sub"), cel.StringType),
		run:     program("run", m.Run, cel.StringType),
		model:   program("model", m.Model, cel.StringType),
		owner:   program("owner", m.Owner, cel.StringType),
		task:    program("task", m.Task, cel.StringType),
		profile: program("profile", or(m.Profile, "'default'"), cel.StringType),
	}, errs
}

func compileExpression(expression string, want *cel.Type) (cel.Program, error) {
	if len(expression) > maxExpressionBytes {
		return nil, fmt.Errorf("must be at most %d bytes", maxExpressionBytes)
	}
	env, err := claimsEnv()
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(expression)
	if issues != nil {
		return nil, issues.Err()
	}
	if out := ast.OutputType(); out != want && out != cel.DynType {
		return nil, fmt.Errorf("must give a %s, gives %s", want, out)
	}
	return env.Program(ast)
}

// agent is who claims stand for according to m. False means that m isn't for
// this token. Errors name the mapping's field, never a claim's value.
func (m *mapping) agent(issuer string, claims map[string]any) (v1alpha1.Agent, bool, error) {
	vars := map[string]any{"claims": claims}
	out, _, err := m.match.Eval(vars)
	if err != nil {
		return v1alpha1.Agent{}, false, errCannotEvaluate("match")
	}
	matched, ok := out.Value().(bool)
	if !ok {
		return v1alpha1.Agent{}, false, errors.New("match is not a bool")
	}
	if !matched {
		return v1alpha1.Agent{}, false, nil
	}
	a := v1alpha1.Agent{Issuer: issuer}
	var subject string
	for _, f := range []struct {
		name    string
		program cel.Program
		to      *string
		check   func(string) error
	}{
		{"subject", m.subject, &subject, checkSubject},
		{"run", m.run, &a.Run, checkRun},
		{"model", m.model, &a.Model, checkText},
		{"owner", m.owner, &a.Owner, checkText},
		{"task", m.task, &a.Task, checkText},
		{"profile", m.profile, &a.Profile, checkProfile},
	} {
		if f.program == nil {
			continue
		}
		// CEL's own text may quote a claim (a failed int() does), so it stays here.
		out, _, err := f.program.Eval(vars)
		if err != nil {
			return v1alpha1.Agent{}, false, errCannotEvaluate(f.name)
		}
		s, ok := out.Value().(string)
		if !ok {
			return v1alpha1.Agent{}, false, fmt.Errorf("%s is not a string", f.name)
		}
		if err := f.check(s); err != nil {
			return v1alpha1.Agent{}, false, fmt.Errorf("%s %w", f.name, err)
		}
		*f.to = s
	}
	a.User = v1alpha1.UserPrefix + issuer + ":" + subject
	return a, true, nil
}

func errCannotEvaluate(name string) error {
	return fmt.Errorf("%s cannot be evaluated: a claim is missing or of another type, or the expression costs too much", name)
}

package webhook

import (
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/version"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// rule is a compiled Rule.
type rule struct {
	Rule
	program cel.Program
	reach   reach
}

// The types of the variables request and agent: a field that they don't have is
// an error of the rule, not of each request.
var (
	requestType = plugincel.BuildRequestType()
	agentType   = apiservercel.NewObjectType("tipstaff.Agent", stringFields("user", "issuer", "run", "model", "owner", "task", "profile"))
)

func stringFields(names ...string) map[string]*apiservercel.DeclField {
	fields := map[string]*apiservercel.DeclField{}
	for _, n := range names {
		fields[n] = apiservercel.NewDeclField(n, apiservercel.StringType, true, nil, nil)
	}
	return fields
}

// celEnv is the CEL environment of Kubernetes' own admission policies, with the
// variables of a rule. Building it costs milliseconds: once.
var celEnv = sync.OnceValues(func() (*cel.Env, error) {
	set, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0),
		EnvOptions: []cel.EnvOption{
			cel.Variable("object", cel.DynType),
			cel.Variable("oldObject", cel.DynType),
			cel.Variable("request", requestType.CelType()),
			cel.Variable("agent", agentType.CelType()),
		},
		DeclTypes: []*apiservercel.DeclType{requestType, agentType},
	})
	if err != nil {
		return nil, fmt.Errorf("make the CEL environment: %w", err)
	}
	return set.Env(environment.StoredExpressions)
})

// compileAll compiles rules and reports everything wrong with them.
func compileAll(rules []Rule, at *field.Path) ([]rule, field.ErrorList) {
	var errs field.ErrorList
	out := make([]rule, 0, len(rules))
	names := map[string]bool{}
	for i, r := range rules {
		at := at.Index(i)
		errs = append(errs, r.validate(at)...)
		if names[r.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), r.Name))
		}
		names[r.Name] = true
		program, bound, err := compile(r.Match)
		if err != nil {
			errs = append(errs, field.Invalid(at.Child("match"), r.Match, err.Error()))
			continue
		}
		out = append(out, rule{Rule: r.withDefaults(), program: program, reach: bound})
	}
	return out, errs
}

func compile(match string) (cel.Program, reach, error) {
	env, err := celEnv()
	if err != nil {
		return nil, reach{}, err
	}
	ast, issues := env.Compile(match)
	if issues.Err() != nil {
		return nil, reach{}, issues.Err()
	}
	if t := ast.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
		return nil, reach{}, fmt.Errorf("must yield true or false, not %s", t)
	}
	program, err := env.Program(ast,
		cel.EvalOptions(cel.OptOptimize),
		cel.CostLimit(celconfig.PerCallLimit), // roughly 0.1 s, as for Kubernetes' own policies
		cel.InterruptCheckFrequency(celconfig.CheckFrequency),
	)
	if err != nil {
		return nil, reach{}, fmt.Errorf("plan: %w", err)
	}
	return program, reachOf(ast), nil
}

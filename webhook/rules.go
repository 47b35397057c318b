package webhook

import (
	"context"
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/version"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// rule is a compiled Rule.
type rule struct {
	Rule
	program cel.Program
	reach   reach
}

// celEnv is the CEL environment of Kubernetes' own admission policies, with the
// variables of a rule. Building it costs milliseconds: once.
var celEnv = sync.OnceValues(func() (*cel.Env, error) {
	set, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0),
		EnvOptions: []cel.EnvOption{
			cel.Variable("object", cel.DynType),
			cel.Variable("oldObject", cel.DynType),
			cel.Variable("request", cel.DynType),
			cel.Variable("agent", cel.DynType),
		},
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

// matches evaluates r. An error is a fact about the rule and this request: the
// caller counts it as the rule's verdict where that is not allow.
func (r *rule) matches(ctx context.Context, vars map[string]any) (bool, error) {
	out, _, err := r.program.ContextEval(ctx, vars)
	if err != nil {
		return false, err
	}
	b, ok := out.Value().(bool)
	if !ok {
		return false, fmt.Errorf("yields %s, not true or false", out.Type().TypeName())
	}
	return b, nil
}

// variables are what a rule sees. Every field of request and agent is there,
// empty where there is nothing, so that a rule need not ask with has().
func variables(r *review) map[string]any {
	req, agent := r.req, r.agent
	groups := make([]any, len(req.UserInfo.Groups))
	for i, g := range req.UserInfo.Groups {
		groups[i] = g
	}
	return map[string]any{
		"object":    celValue(r.raw.object),
		"oldObject": celValue(r.raw.oldObject),
		"request": map[string]any{
			"kind":        map[string]any{"group": req.Kind.Group, "version": req.Kind.Version, "kind": req.Kind.Kind},
			"resource":    map[string]any{"group": req.Resource.Group, "version": req.Resource.Version, "resource": req.Resource.Resource},
			"subResource": req.SubResource,
			"namespace":   req.Namespace,
			"name":        req.Name,
			"operation":   string(req.Operation),
			"dryRun":      req.DryRun != nil && *req.DryRun,
			"options":     celValue(r.raw.options),
			"userInfo":    map[string]any{"username": req.UserInfo.Username, "groups": groups},
		},
		"agent": map[string]any{
			"user": agent.User, "issuer": agent.Issuer, "run": agent.Run, "model": agent.Model,
			"owner": agent.Owner, "task": agent.Task, "profile": agent.Profile,
		},
	}
}

package webhook

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/lazy"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// evaluation is one review as its rules see it. A variable is made when the
// first expression reads it, and kept for those after it. It serves one
// goroutine.
type evaluation struct {
	// ctx is the review's: cel-go asks for variables without one.
	ctx context.Context
	r   *review
	// variables are the config's own.
	variables map[string]*variable
	cluster   *Cluster // nil where it isn't asked
	// bindings is what programs read: e itself, or e with parts left open.
	bindings cel.Activation
	made     map[string]any
	// spent is what all expressions have cost up to now.
	spent uint64
	// unanswered is what the cluster did not answer to the expression under way.
	unanswered error
}

func newEvaluation(ctx context.Context, r *review, variables map[string]*variable, cluster *Cluster) *evaluation {
	e := &evaluation{ctx: ctx, r: r, variables: variables, cluster: cluster, made: map[string]any{}}
	e.bindings = e
	return e
}

// matches evaluates a rule. An error is a fact about the rule and this request:
// the caller counts it as the rule's verdict where that is not allow.
func (e *evaluation) matches(r *rule) (bool, error) {
	out, err := e.eval(r.program)
	if err != nil {
		return false, err
	}
	b, ok := out.Value().(bool)
	if !ok {
		return false, fmt.Errorf("yields %s, not true or false", out.Type().TypeName())
	}
	return b, nil
}

// reviewBudget bounds what the rules and variables may cost together for one
// review, roughly 1 s, as for each of Kubernetes' own policies. What an agent
// sends can drive the cost: a rule for which nothing is left counts as matching.
const reviewBudget = celconfig.RuntimeCELCostBudget

var errBudget = errors.New("the rules have used up what they may cost together for one request")

// eval evaluates one expression. Its cost is counted whatever comes out: the
// environment tracks it anyway, to hold each expression to its own limit.
func (e *evaluation) eval(p cel.Program) (ref.Val, error) {
	if e.spent >= reviewBudget {
		return nil, errBudget
	}
	// This may be a variable that another expression reads: each fails for itself.
	outer := e.unanswered
	e.unanswered = nil
	defer func() { e.unanswered = outer }()
	out, details, err := p.ContextEval(e.ctx, e.bindings)
	cost := uint64(celconfig.PerCallLimit) // where it isn't told
	if details != nil {
		if c := details.ActualCost(); c != nil {
			cost = *c
		}
	}
	e.spent += min(cost, reviewBudget)
	switch {
	case err != nil:
		return nil, err
	case e.unanswered != nil:
		return nil, e.unanswered
	case e.spent > reviewBudget:
		return nil, errBudget
	}
	return out, nil
}

// ResolveName is the value of a variable, an error value where it can't be known.
func (e *evaluation) ResolveName(name string) (any, bool) {
	if v, ok := e.made[name]; ok {
		return v, true
	}
	v, err := e.variable(name)
	if err != nil {
		v = types.WrapErr(fmt.Errorf("%s: %w", name, err))
	}
	if v == errNoVariable {
		return nil, false
	}
	e.made[name] = v
	return v, true
}

// Parent is nil: there are no other variables.
func (e *evaluation) Parent() cel.Activation { return nil }

// errNoVariable stands for a name that is none of a variable.
var errNoVariable = types.NewErr("no such variable")

func (e *evaluation) variable(name string) (any, error) {
	switch name {
	case "object":
		return celValue(e.r.raw.object), nil
	case "oldObject":
		return celValue(e.r.raw.oldObject), nil
	case "request":
		return requestVar(e.r), nil
	case "agent":
		return agentVar(e.r.agent), nil
	case varNamespace:
		return e.namespaceVar()
	case varAuthorizer, varRequestResource:
		return e.authorizerVar(name)
	}
	if v := e.variables[name]; v != nil {
		return e.eval(v.program)
	}
	return errNoVariable, nil
}

// requested is the kind, resource and subresource that the client asked for. A
// request to the very version that the webhook matches may leave them out
// (admission/v1, AdmissionRequest).
func (r *review) requested() (metav1.GroupVersionKind, metav1.GroupVersionResource, string) {
	kind, resource, sub := r.req.Kind, r.req.Resource, r.req.SubResource
	if r.req.RequestKind != nil {
		kind = *r.req.RequestKind
	}
	if r.req.RequestResource != nil {
		resource, sub = *r.req.RequestResource, r.req.RequestSubResource
	}
	return kind, resource, sub
}

// requestVar is the variable request. Every field is there, empty where there is
// nothing, so that a rule need not ask with has(), and so that comparing one is
// never an error (see reachOf).
func requestVar(r *review) ref.Val {
	req := r.req
	kind, resource, sub := r.requested()
	m := lazy.NewMapValue(requestType.CelType())
	value := func(name string, make func() any) {
		m.Append(name, func(*lazy.MapValue) ref.Val { return types.DefaultTypeAdapter.NativeToValue(make()) })
	}
	text := func(name, v string) {
		m.Append(name, func(*lazy.MapValue) ref.Val { return types.String(v) })
	}
	value("kind", func() any { return kindVar(req.Kind) })
	value("resource", func() any { return resourceVar(req.Resource) })
	text("subResource", req.SubResource)
	value("requestKind", func() any { return kindVar(kind) })
	value("requestResource", func() any { return resourceVar(resource) })
	text("requestSubResource", sub)
	text("name", req.Name)
	text("namespace", req.Namespace)
	text("operation", string(req.Operation))
	value("userInfo", func() any { return userVar(req) })
	value("dryRun", func() any { return req.DryRun != nil && *req.DryRun })
	value("options", func() any { return celValue(r.raw.options) })
	return m
}

func kindVar(k metav1.GroupVersionKind) map[string]string {
	return map[string]string{"group": k.Group, "version": k.Version, "kind": k.Kind}
}

func resourceVar(r metav1.GroupVersionResource) map[string]string {
	return map[string]string{"group": r.Group, "version": r.Version, "resource": r.Resource}
}

func userVar(req *admissionv1.AdmissionRequest) map[string]any {
	extra := make(map[string][]string, len(req.UserInfo.Extra))
	for k, v := range req.UserInfo.Extra {
		extra[k] = v
	}
	return map[string]any{
		"username": req.UserInfo.Username, "uid": req.UserInfo.UID, "groups": req.UserInfo.Groups, "extra": extra,
	}
}

// agentVar is the variable agent. Every field is there, as in request.
func agentVar(a v1alpha1.Agent) map[string]string {
	return map[string]string{
		"user": a.User, "issuer": a.Issuer, "run": a.Run, "model": a.Model,
		"owner": a.Owner, "task": a.Task, "profile": a.Profile,
	}
}

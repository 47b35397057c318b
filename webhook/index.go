package webhook

import (
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	admissionv1 "k8s.io/api/admission/v1"
)

// reach bounds the requests that a rule can match: outside of it its expression
// is false, and not in error. A nil set bounds nothing.
type reach struct {
	operations, groups, resources, subresources, namespaces map[string]bool
}

// reachOf reads a bound from what an expression compares of request with
// constants. What it doesn't understand bounds nothing.
//
// A request outside of it is skipped unevaluated, so it must be certain that the
// expression would have been false: in CEL false && error is false, so one false
// side decides a conjunction, whatever the other does; of a disjunction both
// sides must be bounded. The compared fields of request are always there, and
// strings, so a comparison of them is never an error (CEL, "Logical Operators").
func reachOf(a *cel.Ast) reach { return reachOfExpr(a.NativeRep().Expr()) }

func reachOfExpr(e ast.Expr) reach {
	if e.Kind() != ast.CallKind {
		return reach{}
	}
	call := e.AsCall()
	if len(call.Args()) != 2 || call.IsMemberFunction() {
		return reach{}
	}
	left, right := call.Args()[0], call.Args()[1]
	switch call.FunctionName() {
	case operators.LogicalAnd:
		return reachOfExpr(left).join(reachOfExpr(right), intersection)
	case operators.LogicalOr:
		return reachOfExpr(left).join(reachOfExpr(right), union)
	case operators.Equals:
		if s, ok := stringLiteral(right); ok {
			return reachOn(left, map[string]bool{s: true})
		}
		if s, ok := stringLiteral(left); ok {
			return reachOn(right, map[string]bool{s: true})
		}
	case operators.In:
		if right.Kind() != ast.ListKind {
			return reach{}
		}
		set := map[string]bool{}
		for _, item := range right.AsList().Elements() {
			s, ok := stringLiteral(item)
			if !ok {
				return reach{}
			}
			set[s] = true
		}
		return reachOn(left, set)
	}
	return reach{}
}

// reachOn bounds the field of request that e selects.
func reachOn(e ast.Expr, set map[string]bool) reach {
	switch fieldPath(e) {
	case "request.operation":
		return reach{operations: set}
	case "request.resource.group":
		return reach{groups: set}
	case "request.resource.resource":
		return reach{resources: set}
	case "request.subResource":
		return reach{subresources: set}
	case "request.namespace":
		return reach{namespaces: set}
	}
	return reach{}
}

// fieldPath is a.b.c where e selects it, and empty otherwise.
func fieldPath(e ast.Expr) string {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent()
	case ast.SelectKind:
		if s := e.AsSelect(); !s.IsTestOnly() {
			if path := fieldPath(s.Operand()); path != "" {
				return path + "." + s.FieldName()
			}
		}
	}
	return ""
}

func stringLiteral(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

func (r reach) join(o reach, by func(a, b map[string]bool) map[string]bool) reach {
	return reach{
		operations: by(r.operations, o.operations), groups: by(r.groups, o.groups), resources: by(r.resources, o.resources),
		subresources: by(r.subresources, o.subresources), namespaces: by(r.namespaces, o.namespaces),
	}
}

func intersection(a, b map[string]bool) map[string]bool {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	both := map[string]bool{}
	for k := range a {
		if b[k] {
			both[k] = true
		}
	}
	return both
}

func union(a, b map[string]bool) map[string]bool {
	if a == nil || b == nil {
		return nil
	}
	either := map[string]bool{}
	for _, set := range []map[string]bool{a, b} {
		for k := range set {
			either[k] = true
		}
	}
	return either
}

// admitsShape reports whether the rule can match a request of that shape.
func (r *reach) admitsShape(s shape) bool {
	return in(r.resources, s.resource) && in(r.operations, s.operation) && in(r.groups, s.group) && in(r.subresources, s.subresource)
}

func in(set map[string]bool, v string) bool { return set == nil || set[v] }

// index finds the rules that can match a request, in their order.
type index struct {
	byResource map[string][]*rule // those that name it, and those that name none
	other      []*rule            // those that name no resource
	shapes     shapes
}

func newIndex(rules []rule) index {
	x := index{byResource: map[string][]*rule{}, shapes: newShapes()}
	for i := range rules {
		rules[i].order = i
		for name := range rules[i].reach.resources {
			x.byResource[name] = nil
		}
	}
	for i := range rules {
		r := &rules[i]
		if r.reach.resources == nil {
			x.other = append(x.other, r)
		}
		for name := range x.byResource {
			if r.reach.resources == nil || r.reach.resources[name] {
				x.byResource[name] = append(x.byResource[name], r)
			}
		}
	}
	return x
}

// about are the rules that can match requests with that resource.
func (x *index) about(resource string) []*rule {
	if of, ok := x.byResource[resource]; ok {
		return of
	}
	return x.other
}

// candidates are the rules that can match req.
func (x *index) candidates(req *admissionv1.AdmissionRequest) []*rule {
	return x.shapes.rules(shapeOf(req), req.Namespace, x.about(req.Resource.Resource))
}

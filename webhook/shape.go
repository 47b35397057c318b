package webhook

import (
	"sync"
	"sync/atomic"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/utils/lru"
)

// shape is what rules compare of a request most, and of which few values recur.
type shape struct{ operation, group, resource, subresource string }

func shapeOf(req *admissionv1.AdmissionRequest) shape {
	return shape{string(req.Operation), req.Resource.Group, req.Resource.Resource, req.SubResource}
}

const (
	// maxShapes is how many shapes are remembered, those used last.
	maxShapes = 64
	// shapedAfter is how often a shape comes before rules are compiled for it,
	// which takes milliseconds: one that is rare, or made up to cost us, isn't worth it.
	shapedAfter = 8
	// maxShapedRules bounds what is compiled, and kept, for one shape.
	maxShapedRules = 64
)

// shaped are the rules that can match requests of one shape, each with what its
// expression comes to there: those bound to namespaces by these, and the others.
// Each list is in the rules' order.
type shaped struct {
	seen  atomic.Int64
	once  sync.Once
	ready atomic.Bool

	everywhere []*rule
	within     map[string][]*rule
}

// in are the rules that can match a request in that namespace, in their order.
func (s *shaped) in(namespace string) []*rule {
	bound := s.within[namespace]
	if len(bound) == 0 {
		return s.everywhere
	}
	all := make([]*rule, 0, len(s.everywhere)+len(bound))
	for _, r := range s.everywhere {
		for len(bound) > 0 && bound[0].order < r.order {
			all, bound = append(all, bound[0]), bound[1:]
		}
		all = append(all, r)
	}
	return append(all, bound...)
}

// shapes remembers the shapes of requests.
type shapes struct{ recent *lru.Cache }

func newShapes() shapes { return shapes{lru.New(maxShapes)} }

// rules are those of general that can match a request of that shape in that
// namespace; once the shape recurs, as they are settled for it.
func (s shapes) rules(of shape, namespace string, general []*rule) []*rule {
	v, ok := s.recent.Get(of)
	if !ok {
		v = &shaped{}
		s.recent.Add(of, v) // of two at once one is forgotten: its count is lost
	}
	entry := v.(*shaped) //nolint:forcetypeassert // nothing else is in it
	if !entry.ready.Load() {
		if entry.seen.Add(1) < shapedAfter {
			return of.admitted(namespace, general)
		}
		entry.once.Do(func() {
			entry.within = map[string][]*rule{}
			for _, r := range of.rules(general) {
				if r.reach.namespaces == nil {
					entry.everywhere = append(entry.everywhere, r)
				}
				for name := range r.reach.namespaces {
					entry.within[name] = append(entry.within[name], r)
				}
			}
			entry.ready.Store(true)
		})
	}
	return entry.in(namespace)
}

// admitted are the rules that can match a request of that shape in that namespace.
func (s shape) admitted(namespace string, general []*rule) []*rule {
	can := make([]*rule, 0, len(general))
	for _, r := range general {
		if r.reach.admitsShape(s) && in(r.reach.namespaces, namespace) {
			can = append(can, r)
		}
	}
	return can
}

func (s shape) rules(general []*rule) []*rule {
	var can []*rule
	for _, r := range general {
		if r.reach.admitsShape(s) {
			can = append(can, r)
		}
	}
	if len(can) > maxShapedRules {
		return can
	}
	var settled []*rule
	for _, r := range can {
		if in, can := r.in(s); can {
			settled = append(settled, in)
		}
	}
	return settled
}

// in is the rule for requests of that shape, or false where it matches none of
// them. It says of each of them just what r does, errors included.
func (r *rule) in(of shape) (*rule, bool) {
	optimizer, err := cel.NewStaticOptimizer(of)
	if err != nil {
		return r, true
	}
	settled, issues := optimizer.Optimize(r.env, r.ast)
	if issues.Err() != nil {
		return r, true
	}
	if e := settled.NativeRep().Expr(); e.Kind() == ast.LiteralKind && e.AsLiteral() == types.False {
		return nil, false
	}
	program, err := plan(r.env, settled, nil)
	if err != nil {
		return r, true
	}
	in := *r
	in.program, in.reach = program, reach{namespaces: intersection(r.reach.namespaces, reachOf(settled).namespaces)}
	return &in, true
}

// Optimize replaces what an expression compares of the shape with what comes
// out, and what hangs on that alone with what is left of it.
func (s shape) Optimize(ctx *cel.OptimizerContext, a *ast.AST) *ast.AST {
	shadowed := ast.MatchDescendants(ast.NavigateAST(a), func(e ast.NavigableExpr) bool {
		if e.Kind() != ast.ComprehensionKind {
			return false
		}
		c := e.AsComprehension()
		return c.IterVar() == "request" || c.IterVar2() == "request" || c.AccuVar() == "request"
	})
	if len(shadowed) > 0 {
		return a // what is called request there is not
	}
	ast.PostOrderVisit(a.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if to := s.settle(ctx, a, e); to != nil {
			ctx.UpdateExpr(e, to)
		}
	}))
	return a
}

// settle is what e comes to, its parts being settled, or nil for e itself.
func (s shape) settle(ctx *cel.OptimizerContext, a *ast.AST, e ast.Expr) ast.Expr {
	if e.Kind() != ast.CallKind || e.AsCall().IsMemberFunction() {
		return nil
	}
	call := e.AsCall()
	args := call.Args()
	known := func(i int) (value, known bool) {
		if args[i].Kind() != ast.LiteralKind {
			return false, false
		}
		b, ok := args[i].AsLiteral().(types.Bool)
		return bool(b), ok
	}
	switch call.FunctionName() {
	case operators.Equals, operators.In, operators.NotEquals:
		if is, ok := s.compare(call.FunctionName(), args[0], args[1]); ok {
			return ctx.NewLiteral(types.Bool(is))
		}
	case operators.LogicalNot:
		if v, ok := known(0); ok {
			return ctx.NewLiteral(types.Bool(!v))
		}
	case operators.LogicalAnd, operators.LogicalOr:
		decides := call.FunctionName() == operators.LogicalOr // true || x, false && x
		for i := range args {
			if v, ok := known(i); ok && v == decides {
				return ctx.NewLiteral(types.Bool(v))
			}
		}
		for i := range args {
			if _, ok := known(i); !ok || len(args) != 2 {
				continue
			}
			// true && x fails where x is no bool; x alone would not.
			if rest := args[1-i]; a.GetType(rest.ID()).IsExactType(types.BoolType) {
				return rest
			}
		}
	case operators.Conditional:
		if v, ok := known(0); ok {
			if v {
				return args[1]
			}
			return args[2]
		}
	}
	return nil
}

// compare is what a comparison of the shape with constants gives.
func (s shape) compare(operator string, left, right ast.Expr) (is, ok bool) {
	if operator == operators.In {
		value, ok := s.field(left)
		if !ok || right.Kind() != ast.ListKind {
			return false, false
		}
		for _, item := range right.AsList().Elements() {
			text, ok := stringLiteral(item)
			if !ok {
				return false, false
			}
			is = is || text == value
		}
		return is, true
	}
	value, ok := s.field(left)
	text, literal := stringLiteral(right)
	if !ok {
		value, ok = s.field(right)
		text, literal = stringLiteral(left)
	}
	return (value == text) == (operator == operators.Equals), ok && literal
}

// field is the value of the field of request that e selects, where the shape has it.
func (s shape) field(e ast.Expr) (string, bool) {
	switch fieldPath(e) {
	case "request.operation":
		return s.operation, true
	case "request.resource.group":
		return s.group, true
	case "request.resource.resource":
		return s.resource, true
	case "request.subResource":
		return s.subresource, true
	}
	return "", false
}

package authn

import (
	"errors"
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	celast "github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
	"k8s.io/apimachinery/pkg/util/version"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// maxExpressionBytes caps one CEL expression of the config; it keeps a slip of
// the editor from becoming a program that costs memory to compile.
const maxExpressionBytes = 4 << 10

// maxListLength bounds a list that an expression gives.
const maxListLength = 64

// Names of the CEL variables.
const (
	claimsVariable = "claims"
	userVariable   = "user"
)

// claimsEnv is Kubernetes' CEL environment with its libraries and cost limits,
// and the variable claims, typed as in the API server's structured
// authentication (apiserver v0.37, pkg/authentication/cel): a list that a claim
// holds needs dyn(claims.list) before all, exists, filter and map.
var claimsEnv = sync.OnceValues(func() (*cel.Env, error) {
	set, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0),
		EnvOptions:        []cel.EnvOption{cel.Variable(claimsVariable, cel.MapType(cel.StringType, cel.AnyType))},
	})
	if err != nil {
		return nil, fmt.Errorf("make the CEL environment: %w", err)
	}
	return set.Env(environment.StoredExpressions)
})

// userCompiler is Kubernetes' own, for the variable user.
var userCompiler = sync.OnceValue(authenticationcel.NewDefaultCompiler)

// expression is a compiled one.
type expression struct {
	ast     *cel.Ast
	program cel.Program
	literal ref.Val // where the expression is nothing but one; else nil
	claim   string  // where the expression is claims.<claim> or claims.?<claim>.orValue(<literal>); else empty
	absent  ref.Val // that literal; nil where a missing claim is an error
}

// compileExpression compiles an expression over claims that gives one of want,
// or what only the claims decide.
func compileExpression(text string, want ...*cel.Type) (*expression, error) {
	if len(text) > maxExpressionBytes {
		return nil, fmt.Errorf("must be at most %d bytes", maxExpressionBytes)
	}
	env, err := claimsEnv()
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(text)
	if issues != nil {
		return nil, issues.Err()
	}
	if !gives(ast.OutputType(), append(want, cel.DynType, cel.AnyType)) {
		return nil, fmt.Errorf("must give a %s, gives %s", want[0], ast.OutputType())
	}
	p, err := env.Program(ast)
	if err != nil {
		return nil, err
	}
	e := &expression{ast: ast, program: p}
	root := ast.NativeRep().Expr()
	if root.Kind() == celast.LiteralKind {
		e.literal = root.AsLiteral()
	}
	e.claim, e.absent = oneClaim(root)
	return e, nil
}

// oneClaim is the claim that an expression looks up and does no more with, as
// most do; CEL would look up just that, and count what it costs. absent is what
// stands for a missing one.
func oneClaim(x celast.Expr) (claim string, absent ref.Val) {
	ofClaims := func(x celast.Expr) bool { return x.Kind() == celast.IdentKind && x.AsIdent() == claimsVariable }
	switch x.Kind() {
	case celast.SelectKind:
		if s := x.AsSelect(); !s.IsTestOnly() && ofClaims(s.Operand()) {
			return s.FieldName(), nil
		}
	case celast.CallKind: // claims.?x.orValue(<literal>)
		or := x.AsCall()
		if or.FunctionName() != "orValue" || !or.IsMemberFunction() || len(or.Args()) != 1 ||
			or.Args()[0].Kind() != celast.LiteralKind || or.Target().Kind() != celast.CallKind {
			return "", nil
		}
		sel := or.Target().AsCall()
		if sel.FunctionName() != operators.OptSelect || len(sel.Args()) != 2 || !ofClaims(sel.Args()[0]) || sel.Args()[1].Kind() != celast.LiteralKind {
			return "", nil
		}
		if name, ok := sel.Args()[1].AsLiteral().(types.String); ok {
			return string(name), or.Args()[0].AsLiteral()
		}
	}
	return "", nil
}

func gives(out *cel.Type, want []*cel.Type) bool {
	for _, w := range want {
		if out.IsExactType(w) {
			return true
		}
	}
	return false
}

// compileUserExpression compiles a condition over user.
func compileUserExpression(text string) (*expression, error) {
	if len(text) > maxExpressionBytes {
		return nil, fmt.Errorf("must be at most %d bytes", maxExpressionBytes)
	}
	r, err := userCompiler().CompileUserExpression(&authenticationcel.UserValidationCondition{Expression: text})
	if err != nil {
		return nil, err
	}
	return &expression{ast: r.AST, program: r.Program}, nil
}

// variable is an activation of one variable; nothing is looked up by reflection.
type variable struct {
	name  string
	value ref.Val
}

func claimsOfToken(claims map[string]any) *variable {
	return &variable{claimsVariable, types.NewStringInterfaceMap(types.DefaultTypeAdapter, claims)}
}

// ResolveName gives the variable's value.
func (v *variable) ResolveName(name string) (any, bool) {
	if v == nil || v.name != name {
		return nil, false
	}
	return v.value, true
}

// Parent is none.
func (v *variable) Parent() interpreter.Activation { return nil }

// errCannot says that an expression gave no value. CEL's own text may quote a
// claim (a failed int() does), so it goes no further.
var errCannot = errors.New("cannot be evaluated: a claim is missing or of another type, or the expression costs too much")

// The cost limit bounds it; there is nothing to wait for.
func (e *expression) eval(vars *variable) (ref.Val, error) {
	if e.literal != nil {
		return e.literal, nil
	}
	if m, ok := vars.value.(traits.Mapper); ok && e.claim != "" {
		v, found := m.Find(types.String(e.claim))
		switch {
		case found && !types.IsError(v):
			return v, nil
		case !found && e.absent != nil:
			return e.absent, nil
		}
		return nil, errCannot
	}
	out, _, err := e.program.Eval(vars)
	if err != nil {
		return nil, errCannot
	}
	return out, nil
}

func (e *expression) bool(vars *variable) (bool, error) {
	out, err := e.eval(vars)
	if err != nil {
		return false, err
	}
	b, ok := out.Value().(bool)
	if !ok {
		return false, errors.New("is not a bool")
	}
	return b, nil
}

func (e *expression) string(vars *variable) (string, error) {
	out, err := e.eval(vars)
	if err != nil {
		return "", err
	}
	s, ok := out.(types.String)
	if !ok {
		return "", errors.New("is not a string")
	}
	return string(s), nil
}

func (e *expression) strings(vars *variable) ([]string, error) {
	out, err := e.eval(vars)
	if err != nil {
		return nil, err
	}
	l, ok := out.(traits.Lister)
	if !ok {
		return nil, errors.New("is not a list of strings")
	}
	if n, ok := l.Size().(types.Int); !ok || n > maxListLength {
		return nil, fmt.Errorf("is longer than %d", maxListLength)
	}
	var list []string
	for it := l.Iterator(); it.HasNext() == types.True; {
		s, ok := it.Next().(types.String)
		if !ok {
			return nil, errors.New("is not a list of strings")
		}
		list = append(list, string(s))
	}
	return list, nil
}

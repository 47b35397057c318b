package authn

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	celast "github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// checkPortable refuses what the API server would read otherwise than authn. It
// decodes every number as a double, and reads a__dot__b as a.b
// (apiserver v0.37, plugin/pkg/authenticator/token/oidc, newClaimsValue). What
// merely fails there, and so refuses the token, is no matter.
func (e *exporter) checkPortable(at *field.Path, expression string) {
	refuse := func(why string) {
		if !slices.ContainsFunc(e.errs, func(err *field.Error) bool { return err.Field == at.String() }) {
			e.errs = append(e.errs, field.Invalid(at, expression, why))
		}
	}
	env, err := claimsEnv()
	if err != nil {
		e.errs = append(e.errs, field.InternalError(at, err))
		return
	}
	ast, issues := env.Parse(expression)
	if issues != nil {
		refuse(issues.Err().Error())
		return
	}
	if why := differs(ast); why != "" {
		refuse("cannot be exported: " + why)
	}
}

// numberSensitive are the functions that give something else for 7 than for 7.0.
var numberSensitive = map[string]bool{
	"string": true, "type": true, "timestamp": true, "duration": true, "format": true,
	operators.Divide: true, operators.Modulo: true,
}

// differs says what in a gives another value in the API server; empty if nothing.
func differs(a *cel.Ast) string {
	var why string
	celast.PreOrderVisit(a.NativeRep().Expr(), celast.NewExprVisitor(func(e celast.Expr) {
		switch e.Kind() {
		case celast.SelectKind:
			if strings.Contains(e.AsSelect().FieldName(), "__") {
				why = `the API server reads names with "__" as escaped ones`
			}
		case celast.CallKind:
			call := e.AsCall()
			args := call.Args()
			if call.IsMemberFunction() {
				args = append([]celast.Expr{call.Target()}, args...)
			}
			switch f := call.FunctionName(); f {
			case operators.Index, operators.OptIndex, operators.OptSelect:
				if s, ok := literal(args[1]).(types.String); ok && strings.Contains(string(s), "__") {
					why = `the API server reads names with "__" as escaped ones`
				}
			case operators.Add, operators.Subtract, operators.Multiply:
				if slices.ContainsFunc(args, isWhole) && !allFixed(args) {
					why = mixes(f)
				}
			default:
				if numberSensitive[f] && !allFixed(args) {
					why = mixes(f)
				}
			}
		}
	}))
	return why
}

func mixes(function string) string {
	return fmt.Sprintf("%s tells whole numbers from others, and in the API server every claim that is a number is a double; write int(…) around the claim",
		strings.Trim(function, "_"))
}

func allFixed(args []celast.Expr) bool {
	return !slices.ContainsFunc(args, func(e celast.Expr) bool { return !isFixed(e) })
}

// isFixed reports whether e is of one type whatever the claims are decoded to.
func isFixed(e celast.Expr) bool {
	switch e.Kind() {
	case celast.LiteralKind:
		return true
	case celast.CallKind:
		switch call := e.AsCall(); call.FunctionName() {
		case "int", "uint", "double", "size", "bool":
			return true
		case operators.Add, operators.Subtract, operators.Multiply, operators.Divide, operators.Modulo, operators.Negate:
			return allFixed(call.Args())
		}
	}
	return false
}

// isWhole reports whether e is surely an int or uint.
func isWhole(e celast.Expr) bool {
	switch e.Kind() {
	case celast.LiteralKind:
		switch literal(e).(type) {
		case types.Int, types.Uint:
			return true
		}
	case celast.CallKind:
		switch e.AsCall().FunctionName() {
		case "int", "uint", "size":
			return true
		}
	}
	return false
}

func literal(e celast.Expr) any {
	if e.Kind() != celast.LiteralKind {
		return nil
	}
	return e.AsLiteral()
}

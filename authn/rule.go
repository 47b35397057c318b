package authn

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// maxRules bounds the validation rules of one kind that an issuer has
// (apiserver v0.37, pkg/apis/apiserver/validation: 64 there too).
const maxRules = 64

// requiredClaim must be in a token as that string.
type requiredClaim struct{ name, value string }

func requiredClaims(m map[string]string, at *field.Path) ([]requiredClaim, field.ErrorList) {
	var errs field.ErrorList
	var list []requiredClaim
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if name == "" {
			errs = append(errs, field.Required(at.Key(name), "must name a claim"))
		}
		list = append(list, requiredClaim{name, m[name]})
	}
	return list, errs
}

func checkRequired(required []requiredClaim, claims map[string]any) error {
	for _, r := range required {
		if s, ok := claims[r.name].(string); !ok || s != r.value {
			return fmt.Errorf("requiredClaims[%s]: the claim is missing or has another value", r.name)
		}
	}
	return nil
}

// rule is a compiled ValidationRule.
type rule struct {
	label   string // such as claimValidationRules[0]
	message string
	expr    *expression
}

func compileRules(rules []ValidationRule, kind string, at *field.Path, compile func(string) (*expression, error)) ([]*rule, field.ErrorList) {
	var errs field.ErrorList
	at = at.Child(kind)
	if len(rules) > maxRules {
		errs = append(errs, field.TooMany(at, len(rules), maxRules))
	}
	var compiled []*rule
	seen := map[string]bool{}
	for i, r := range rules {
		at := at.Index(i).Child("expression")
		if r.Expression == "" {
			errs = append(errs, field.Required(at, "a condition in CEL"))
			continue
		}
		if seen[r.Expression] {
			errs = append(errs, field.Duplicate(at, r.Expression))
		}
		seen[r.Expression] = true
		e, err := compile(r.Expression)
		if err != nil {
			errs = append(errs, field.Invalid(at, r.Expression, err.Error()))
		}
		message := r.Message
		if message == "" {
			message = "expression does not hold: " + r.Expression
		}
		compiled = append(compiled, &rule{label: fmt.Sprintf("%s[%d]", kind, i), message: message, expr: e})
	}
	return compiled, errs
}

// compileCondition compiles a condition over claims. As in the API server it
// must be a bool for sure: claims.ok == true instead of claims.ok.
func compileCondition(text string) (*expression, error) {
	e, err := compileExpression(text, cel.BoolType)
	if err != nil {
		return nil, err
	}
	if out := e.ast.OutputType(); !out.IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("must give a bool whatever the claims are, gives %s", out)
	}
	return e, nil
}

// check refuses where r doesn't hold. The error holds only what the config says.
func (r *rule) check(vars *variable, tr *trace) error {
	tr.uses(r.expr)
	ok, err := r.expr.bool(vars)
	if err == nil && !ok {
		err = errors.New(r.message)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", r.label, err)
	}
	return nil
}

// userOf is the variable user: the identity as the API server will see it.
func userOf(a v1alpha1.Agent) *variable {
	return &variable{userVariable, types.NewStringInterfaceMap(types.DefaultTypeAdapter, map[string]any{
		"username": a.User, "uid": "", "groups": a.Groups(), "extra": a.Extra(),
	})}
}

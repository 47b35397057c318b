package webhook

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// ruleList is a list of rules, with the variables that it brings, and where it stands.
type ruleList struct {
	variables []Variable
	rules     []Rule
	at        *field.Path // of what has .variables and .rules
}

// ruleBook is compiled rules and variables.
type ruleBook struct {
	rules     []rule
	variables map[string]*variable // by the name that expressions call them, variables.x
	// reads are the names of all variables that some expression reads.
	reads map[string]bool
}

// variable is a compiled Variable.
type variable struct {
	program cel.Program
}

// compileLists compiles all variables, then all rules, in their order, and reports
// everything wrong with them. Names are unique over all lists.
func compileLists(lists []ruleList, opts ...cel.EvalOption) (*ruleBook, field.ErrorList) {
	var errs field.ErrorList
	book := &ruleBook{variables: map[string]*variable{}, reads: map[string]bool{}}
	env, err := celEnv()
	if err != nil {
		return nil, append(errs, field.InternalError(nil, err))
	}
	for _, l := range lists {
		for i, v := range l.variables {
			var err *field.Error
			if env, err = book.addVariable(env, v, l.at.Child("variables").Index(i), opts); err != nil {
				errs = append(errs, err)
			}
		}
	}
	names := map[string]bool{}
	for _, l := range lists {
		for i, r := range l.rules {
			at := l.at.Child("rules").Index(i)
			errs = append(errs, r.validate(at)...)
			if names[r.Name] {
				errs = append(errs, field.Duplicate(at.Child("name"), r.Name))
			}
			names[r.Name] = true
			ast, err := book.compile(env, r.Match)
			if err == nil {
				if t := ast.OutputType(); !t.IsExactType(cel.BoolType) && !t.IsExactType(cel.DynType) {
					err = fmt.Errorf("must yield true or false, not %s", t)
				}
			}
			var program cel.Program
			if err == nil {
				program, err = book.plan(env, ast, opts)
			}
			if err != nil {
				errs = append(errs, field.Invalid(at.Child("match"), r.Match, err.Error()))
				continue
			}
			book.rules = append(book.rules, rule{Rule: r.withDefaults(), env: env, ast: ast, program: program, reach: reachOf(ast)})
		}
	}
	return book, errs
}

// celReserved are words that no name in CEL can be (the specification's "Syntax").
var celReserved = []string{
	"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop",
	"package", "namespace", "return", "var", "void", "while",
}

var celIdentifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// addVariable compiles v and gives the environment in which it is known. One
// that doesn't compile is known all the same: who uses it has no fault of their own.
func (b *ruleBook) addVariable(env *cel.Env, v Variable, at *field.Path, opts []cel.EvalOption) (*cel.Env, *field.Error) {
	name := "variables." + v.Name
	switch {
	case v.Name == "":
		return env, field.Required(at.Child("name"), "rules call it variables.<name>")
	case len(v.Name) > 63:
		return env, field.TooLong(at.Child("name"), v.Name, 63)
	case !celIdentifier.MatchString(v.Name) || slices.Contains(celReserved, v.Name):
		return env, field.Invalid(at.Child("name"), v.Name, "must be letters, digits and _, not start with a digit, and be no word of CEL's own")
	case b.variables[name] != nil:
		return env, field.Duplicate(at.Child("name"), v.Name)
	}
	ast, err := b.compile(env, v.Expression)
	var program cel.Program
	if err == nil {
		program, err = b.plan(env, ast, opts)
	}
	b.variables[name] = &variable{program: program}
	t := cel.DynType
	if err == nil {
		t = ast.OutputType()
	}
	next, extendErr := env.Extend(cel.Variable(name, t))
	switch {
	case extendErr != nil:
		return env, field.InternalError(at, extendErr)
	case err != nil:
		return next, field.Invalid(at.Child("expression"), v.Expression, err.Error())
	}
	return next, nil
}

func (b *ruleBook) compile(env *cel.Env, expression string) (*cel.Ast, error) {
	ast, issues := env.Compile(expression)
	if err := issues.Err(); err != nil {
		return nil, errors.Join(err, b.unknownVariables(expression))
	}
	return ast, nil
}

var readsVariable = regexp.MustCompile(`\bvariables\s*\.\s*[A-Za-z_][A-Za-z0-9_]*`)

// unknownVariables names the variables that an expression reads and nobody has
// defined before it: of those CEL says only that it knows no "variables".
func (b *ruleBook) unknownVariables(expression string) error {
	var unknown []string
	for _, read := range readsVariable.FindAllString(expression, -1) {
		name := strings.Join(strings.Fields(read), "")
		if b.variables[name] == nil && !slices.Contains(unknown, name) {
			unknown = append(unknown, name)
		}
	}
	if unknown == nil {
		return nil
	}
	known := slices.Sorted(maps.Keys(b.variables))
	if len(known) == 0 {
		return fmt.Errorf("%s: no variable is defined before this", strings.Join(unknown, ", "))
	}
	return fmt.Errorf("%s: not among the variables defined before this, %s", strings.Join(unknown, ", "), strings.Join(known, ", "))
}

func (b *ruleBook) plan(env *cel.Env, ast *cel.Ast, opts []cel.EvalOption) (cel.Program, error) {
	for _, ref := range ast.NativeRep().ReferenceMap() {
		b.reads[ref.Name] = true
	}
	return plan(env, ast, opts)
}

func plan(env *cel.Env, ast *cel.Ast, opts []cel.EvalOption) (cel.Program, error) {
	program, err := env.Program(ast,
		cel.EvalOptions(append(opts, cel.OptOptimize, cel.OptTrackCost)...),
		cel.CostLimit(celconfig.PerCallLimit), // roughly 0.1 s, as for Kubernetes' own policies
		cel.InterruptCheckFrequency(celconfig.CheckFrequency),
	)
	if err != nil {
		return nil, fmt.Errorf("plan: %w", err)
	}
	return program, nil
}

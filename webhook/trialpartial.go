package webhook

import (
	"context"
	"fmt"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Part is what a rule sees of a request and a record of it may lack.
type Part string

// The parts that can be unknown.
const (
	PartObject    Part = "object"
	PartOldObject Part = "oldObject"
	PartKind      Part = "request.kind"
	PartOptions   Part = "request.options"
	// PartUser is what request.userInfo says beside name and groups.
	PartUser Part = "request.userInfo.extra"
)

func (p Part) patterns() []*cel.AttributePatternType {
	request := func(field string) *cel.AttributePatternType {
		return cel.AttributePattern("request").QualString(field)
	}
	switch p {
	case PartKind:
		return []*cel.AttributePatternType{request("kind"), request("requestKind")}
	case PartOptions:
		return []*cel.AttributePatternType{request("options")}
	case PartUser:
		return []*cel.AttributePatternType{request("userInfo").QualString("uid"), request("userInfo").QualString("extra")}
	default:
		return []*cel.AttributePatternType{cel.AttributePattern(string(p))}
	}
}

// partial tells whether what a rule says hangs on a part of the request that is
// not known: it evaluates with that part unknown, and asks whether a
// result comes out all the same.
type partial struct {
	book *ruleBook
}

func newPartial(cfg Config) (*partial, error) {
	lists, fault := cfg.ruleLists(field.NewPath("webhook"))
	if fault != nil {
		return nil, fault
	}
	book, errs := compileLists(lists, cel.OptPartialEval)
	if len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	return &partial{book: book}, nil
}

// undecided are the rules of which it can't be said whether they match.
func (p *partial) undecided(ctx context.Context, r *review, unknown []Part) (map[string]bool, error) {
	if len(unknown) == 0 {
		return nil, nil
	}
	var patterns []*cel.AttributePatternType
	for _, u := range unknown {
		patterns = append(patterns, u.patterns()...)
	}
	e := newEvaluation(ctx, r, p.book.variables, nil)
	open, err := cel.PartialVars(e, patterns...)
	if err != nil {
		return nil, fmt.Errorf("leave parts of a request open: %w", err)
	}
	e.bindings = open
	out := map[string]bool{}
	for i := range p.book.rules {
		rule := &p.book.rules[i]
		// An error is what the rule says with or without the unknown part.
		if v, err := e.eval(rule.program); err == nil && types.IsUnknown(v) {
			out[rule.Name] = true
		}
	}
	return out, ctx.Err()
}

package authn

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	celast "github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/access"
)

// Report is how a token fared: for the one who holds it, so it shows claims. It
// never holds the token or its signature.
type Report struct {
	// Accepted says that every check held, the signature's included. Where SignatureVerified is false
	// anybody may have written the token.
	Accepted          bool `json:"accepted"`
	SignatureVerified bool `json:"signatureVerified"`
	// Refused is the reason as the API server's log has it.
	Refused string `json:"refused,omitempty"`
	Issuer  string `json:"issuer,omitempty"`
	Mapping string `json:"mapping,omitempty"`
	// Checks are those that were made, in order; the last is the one that failed.
	Checks []Check `json:"checks"`
	// Claims are those that the evaluated expressions use.
	Claims []ClaimUse `json:"claims,omitempty"`
	// User is who the API server takes the token's holder for.
	User *ReportUser `json:"user,omitempty"`
	// Access is what the run's profile gives it.
	Access []ReportAccess `json:"access,omitempty"`
	// Until is when the token ends for tipstaff, clock skew included.
	Until *time.Time `json:"until,omitempty"`
	// NotChecked says what only a running tipstaff knows.
	NotChecked []string `json:"notChecked,omitempty"`
}

// Check is one check.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// ClaimUse is a claim that an expression uses, as CEL writes it, and its value
// as JSON; no value means that the token doesn't have it.
type ClaimUse struct {
	Claim string         `json:"claim"`
	Value jsontext.Value `json:"value,omitempty"`
}

// ReportUser is the user of a TokenReview's answer.
type ReportUser struct {
	Username string              `json:"username"`
	Groups   []string            `json:"groups"`
	Extra    map[string][]string `json:"extra"`
}

// ReportAccess is a cluster role that the run gets.
type ReportAccess struct {
	ClusterRole string        `json:"clusterRole"`
	Namespaces  []string      `json:"namespaces"`
	Path        v1alpha1.Path `json:"path"`
}

// ExplainOptions say how Explain works.
type ExplainOptions struct {
	// Offline asks no issuer. Where the keys come from no file, the signature is
	// then not verified, and the report says so.
	Offline bool
}

// Explain says step by step how token fares with cfg, by the checks that an
// Authenticator makes. Revocations aren't asked, nothing is bound. An error
// means that cfg doesn't hold.
func Explain(ctx context.Context, cfg Config, limits access.Limits, token string, opts ExplainOptions) (Report, error) {
	a, err := New(cfg, limits, unasked{}, unasked{}, slog.New(slog.DiscardHandler))
	if err != nil {
		return Report{}, err
	}
	tr := &trace{}
	r := Report{NotChecked: []string{"whether the run is revoked: only a running tipstaff knows"}}
	v, err := a.explain(ctx, token, opts, tr, &r)
	var refused *RefusedError
	switch {
	case err == nil:
		r.Accepted, r.Mapping = r.SignatureVerified, v.mapping
		r.User = &ReportUser{Username: v.agent.User, Groups: v.agent.Groups(), Extra: v.agent.Extra()}
		until := v.until.UTC()
		r.Until = &until
		for _, x := range v.access {
			r.Access = append(r.Access, ReportAccess{x.ClusterRole, x.Namespaces, x.Path})
		}
	case errors.As(err, &refused):
		r.Refused, r.Mapping = refused.Reason, refused.mapping
	case errors.Is(err, ErrNotOurs):
		r.Refused = err.Error()
	default:
		return Report{}, err
	}
	r.Checks, r.Claims = tr.checks, tr.claimUses()
	return r, nil
}

func (a *Authenticator) explain(ctx context.Context, token string, opts ExplainOptions, tr *trace, r *Report) (*verified, error) {
	url := peekIssuer(token)
	is := a.issuers[url]
	switch {
	case !mayBeOurs(token):
		tr.fail("token", fmt.Errorf("is no JWT of at most %d bytes in the compact form: three parts with dots between (RFC 7515 section 3.1)", maxTokenBytes))
		return nil, ErrNotOurs
	case url == "":
		tr.fail("token", errors.New("is no JWT that names its issuer (claim iss)"))
		return nil, ErrNotOurs
	case is == nil:
		tr.fail("token", fmt.Errorf("is of issuer %q; configured are %q", url, slices.Sorted(maps.Keys(a.issuers))))
		return nil, ErrNotOurs
	}
	_ = tr.step("token", nil, func() string { return fmt.Sprintf("is of issuer %q, %s", is.name, is.url) })
	r.Issuer = is.name
	if opts.Offline && is.keySetFile == "" {
		r.NotChecked = append(r.NotChecked, "the signature: offline, and the issuer has no keySetFile; anybody may have written this token")
		h, err := checkHeader(token, is.algorithms)
		if err := tr.step("header", err, tr.aboutHeader(is, h)); err != nil {
			return nil, is.refuse(outcomeRefused, "", err)
		}
		payload, err := base64.RawURLEncoding.Strict().DecodeString(strings.Split(token, ".")[1])
		if err != nil {
			return nil, is.refuse(outcomeRefused, "", err)
		}
		return is.judge(payload, tr)
	}
	if err := is.connect(ctx); err != nil {
		err = fmt.Errorf("the issuer's keys can't be had: %w", err)
		tr.fail("keys", err)
		return nil, is.refuse(outcomeUnavailable, "", err)
	}
	v, err := is.verify(ctx, token, tr)
	r.SignatureVerified = slices.ContainsFunc(tr.checks, func(c Check) bool { return c.Name == "signature" && c.OK })
	return v, err
}

// unasked stands for what Explain doesn't ask.
type unasked struct{}

// Revoked is never.
func (unasked) Revoked(v1alpha1.Agent) (string, bool, error) { return "", false, nil }

// Ensure does nothing.
func (unasked) Ensure(context.Context, v1alpha1.Agent, []v1alpha1.Access, time.Time) error {
	return nil
}

// ids are the key ids of k, as far as they can be had.
func (k *keySet) ids() []string {
	none := []string{"no usable key"}
	resp, err := k.from.client().Get(k.url) //nolint:noctx // from memory or the file: it was fetched moments ago
	if err != nil {
		return none
	}
	defer func() { _ = resp.Body.Close() }() // in memory
	var set struct {
		Keys []struct {
			ID string `json:"kid"`
		} `json:"keys"`
	}
	if json.UnmarshalRead(resp.Body, &set) != nil || len(set.Keys) == 0 {
		return none
	}
	var ids []string
	for _, key := range set.Keys {
		ids = append(ids, fmt.Sprintf("%q", key.ID))
	}
	return ids
}

// claimUses are the claims that the noted expressions use, in their order.
func (t *trace) claimUses() []ClaimUse {
	var uses []ClaimUse
	seen := map[string]bool{}
	for _, e := range t.exprs {
		if e == nil {
			continue
		}
		for _, path := range claimPaths(e.ast.NativeRep().Expr()) {
			name := claimsVariable + "." + strings.Join(path, ".")
			if seen[name] {
				continue
			}
			seen[name] = true
			u := ClaimUse{Claim: name}
			if v, ok := lookUp(t.claims, path); ok {
				u.Value = jsontext.Value(shown(v))
			}
			uses = append(uses, u)
		}
	}
	return uses
}

// claimPaths are the longest chains of fixed names from the variable claims in e:
// claims.act.sub, claims["act"].?sub, has(claims.act).
func claimPaths(e celast.Expr) [][]string {
	if path, ok := claimPath(e); ok {
		if len(path) == 0 {
			return nil // claims itself
		}
		return [][]string{path}
	}
	var paths [][]string
	for _, child := range children(e) {
		paths = append(paths, claimPaths(child)...)
	}
	return paths
}

func claimPath(e celast.Expr) ([]string, bool) {
	switch e.Kind() {
	case celast.IdentKind:
		return nil, e.AsIdent() == claimsVariable
	case celast.SelectKind:
		path, ok := claimPath(e.AsSelect().Operand())
		return append(path, e.AsSelect().FieldName()), ok
	case celast.CallKind:
		call := e.AsCall()
		switch call.FunctionName() {
		case operators.Index, operators.OptIndex, operators.OptSelect:
			name := call.Args()[1]
			if name.Kind() != celast.LiteralKind {
				return nil, false
			}
			s, isString := name.AsLiteral().(types.String)
			path, ok := claimPath(call.Args()[0])
			return append(path, string(s)), ok && isString
		}
	}
	return nil, false
}

func children(e celast.Expr) []celast.Expr {
	switch e.Kind() {
	case celast.SelectKind:
		return []celast.Expr{e.AsSelect().Operand()}
	case celast.CallKind:
		call := e.AsCall()
		if call.IsMemberFunction() {
			return append([]celast.Expr{call.Target()}, call.Args()...)
		}
		return call.Args()
	case celast.ListKind:
		return e.AsList().Elements()
	case celast.MapKind:
		var all []celast.Expr
		for _, entry := range e.AsMap().Entries() {
			all = append(all, entry.AsMapEntry().Key(), entry.AsMapEntry().Value())
		}
		return all
	case celast.StructKind:
		var all []celast.Expr
		for _, f := range e.AsStruct().Fields() {
			all = append(all, f.AsStructField().Value())
		}
		return all
	case celast.ComprehensionKind:
		c := e.AsComprehension()
		return []celast.Expr{c.IterRange(), c.AccuInit(), c.LoopCondition(), c.LoopStep(), c.Result()}
	}
	return nil
}

func lookUp(claims map[string]any, path []string) (any, bool) {
	var v any = claims
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[name]; !ok {
			return nil, false
		}
	}
	return v, true
}

// shown is a claim as JSON.
func shown(v any) string {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return "null"
	}
	return string(b)
}

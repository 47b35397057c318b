package authn

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// ErrNothingToExport says that the API server could verify the tokens of none
// of the config's issuers. The notes say why.
var ErrNothingToExport = errors.New("no issuer can be exported")

// Export writes the issuers of cfg as Kubernetes' AuthenticationConfiguration
// (apiserver.config.k8s.io/v1), for an API server that shall verify agents'
// tokens itself. Whoever it lets in is the same user as [Authenticator] says,
// and it lets nobody in whom the checks on claims and names refuse here. What
// it gives up stands in the comment at the top of the file. The notes are what
// is particular to cfg: what was left out, or reads differently.
//
// The result is checked by Kubernetes' own validation. An error names what cannot
// be exported, at its place in cfg; it may be [ErrNothingToExport].
func Export(cfg *Config) (file []byte, notes []string, err error) {
	out := apiserverv1.AuthenticationConfiguration{TypeMeta: metav1.TypeMeta{
		APIVersion: apiserverv1.SchemeGroupVersion.String(), Kind: "AuthenticationConfiguration",
	}}
	var errs field.ErrorList
	for i := range cfg.Issuers {
		is, at := &cfg.Issuers[i], field.NewPath("authn", "issuers").Index(i)
		if is.KeySetFile != "" {
			notes = append(notes, fmt.Sprintf("issuer %q is left out: its keys come from keySetFile, the API server only knows discovery", is.Name))
			continue
		}
		if len(is.Algorithms) > 0 && !slices.ContainsFunc(is.Algorithms, func(alg string) bool { return alg != "EdDSA" }) {
			notes = append(notes, fmt.Sprintf("issuer %q is left out: the API server verifies no EdDSA signatures", is.Name))
			continue
		}
		if slices.Contains(is.Algorithms, "EdDSA") {
			notes = append(notes, fmt.Sprintf("issuer %q: the API server refuses its tokens signed with EdDSA", is.Name))
		}
		e := exporter{issuer: is, at: at}
		out.JWT = append(out.JWT, e.authenticator())
		errs = append(errs, e.errs...)
	}
	if len(cfg.Profiles) > 0 {
		notes = append(notes, "profiles: the groups tipstaff:profile:<name> are given, the access behind them isn't; bind those groups by hand")
	}
	if len(errs) > 0 {
		return nil, notes, errs.ToAggregate()
	}
	if len(out.JWT) == 0 {
		return nil, notes, ErrNothingToExport
	}
	body, err := marshalWithoutEmpty(&out)
	if err != nil {
		return nil, notes, err
	}
	if err := checkExported(body); err != nil {
		return nil, notes, err
	}
	return append([]byte(exportHeader(notes)), body...), notes, nil
}

// exporter turns one issuer into an API server's JWT authenticator.
type exporter struct {
	issuer *Issuer
	at     *field.Path
	errs   field.ErrorList
}

func (e *exporter) authenticator() apiserverv1.JWTAuthenticator {
	is := e.issuer
	subject := e.choose("subject", func(m *Mapping) string { return m.Subject }, "claims.sub")
	run := e.choose("run", func(m *Mapping) string { return m.Run }, "")
	profile := e.choose("profile", func(m *Mapping) string { return m.Profile }, "'default'")
	prefix := v1alpha1.UserPrefix + is.Name + ":"
	runPrefix := v1alpha1.RunGroup(is.Name, "")
	out := apiserverv1.JWTAuthenticator{
		Issuer: apiserverv1.Issuer{
			URL: is.URL, Audiences: distinct(slices.Clone(is.Audiences), strings.Clone),
			AudienceMatchPolicy: apiserverv1.AudienceMatchPolicyMatchAny, CertificateAuthority: e.certificates(),
		},
		ClaimValidationRules: e.claimRules(),
		ClaimMappings: apiserverv1.ClaimMappings{
			Username: apiserverv1.PrefixedClaimOrExpression{Expression: quote(prefix) + " + " + subject},
			Groups: apiserverv1.PrefixedClaimOrExpression{Expression: fmt.Sprintf("[%s, %s + %s, %s + %s]",
				quote(v1alpha1.GroupAgents), quote(v1alpha1.GroupProfilePrefix), profile, quote(runPrefix), run)},
			Extra: []apiserverv1.ExtraMapping{
				{Key: v1alpha1.ExtraIssuer, ValueExpression: quote(is.Name)},
				{Key: v1alpha1.ExtraRun, ValueExpression: "'' + " + run},
			},
		},
	}
	user := []apiserverv1.UserValidationRule{
		{
			Expression: fmt.Sprintf(`user.username.matches('^%s[!-~]{1,%d}$') && !user.username.lowerAscii().startsWith('%ssystem:')`,
				regexp.QuoteMeta(prefix), maxSubjectBytes, prefix),
			Message: fmt.Sprintf("subject must be 1 to %d printable ASCII characters without spaces, and must not start with system:", maxSubjectBytes),
		},
		{
			Expression: fmt.Sprintf(`user.groups[1].matches('^%s[a-z0-9-]{1,%d}$')`, v1alpha1.GroupProfilePrefix, maxProfileBytes),
			Message:    fmt.Sprintf("profile must be 1 to %d of a-z0-9-", maxProfileBytes),
		},
		{
			Expression: fmt.Sprintf(`user.groups.size() == 3 && user.groups[2].matches('^%s[A-Za-z0-9._:/@+-]{1,%d}$') && !user.groups[2].lowerAscii().startsWith('%ssystem:')`,
				regexp.QuoteMeta(runPrefix), maxRunBytes, runPrefix),
			Message: fmt.Sprintf("run must be 1 to %d of A-Za-z0-9._:/@+-, and must not start with system:", maxRunBytes),
		},
	}
	for _, f := range []struct {
		name, key string
		of        func(*Mapping) string
	}{
		{"model", v1alpha1.ExtraModel, func(m *Mapping) string { return m.Model }},
		{"owner", v1alpha1.ExtraOwner, func(m *Mapping) string { return m.Owner }},
		{"task", v1alpha1.ExtraTask, func(m *Mapping) string { return m.Task }},
	} {
		if !slices.ContainsFunc(is.Mappings, func(m Mapping) bool { return f.of(&m) != "" }) {
			continue
		}
		// '' + refuses what is no string: the API server would take a list as
		// several values, and null as none.
		out.ClaimMappings.Extra = append(out.ClaimMappings.Extra, apiserverv1.ExtraMapping{
			Key: f.key, ValueExpression: "'' + " + e.choose(f.name, f.of, "''"),
		})
		user = append(user, apiserverv1.UserValidationRule{
			Expression: fmt.Sprintf(`!(%[1]s in user.extra) || user.extra[%[1]s].all(v, %[2]s)`, quote(f.key), plain("v")),
			Message:    f.name + " " + plainMessage,
		})
	}
	for i, r := range is.UserValidationRules {
		at := e.at.Child("userValidationRules").Index(i)
		e.checkPortable(at.Child("expression"), r.Expression)
		user = append(user, apiserverv1.UserValidationRule(r))
	}
	out.UserValidationRules = distinct(user, func(r apiserverv1.UserValidationRule) string { return r.Expression })
	return out
}

// claimRules are the checks on claims: ours, those of the config, and that a
// mapping matches at all.
func (e *exporter) claimRules() []apiserverv1.ClaimValidationRule {
	is := e.issuer
	maxAge := is.MaxTokenAge.Duration
	if maxAge == 0 {
		maxAge = defaultMaxTokenAge
	}
	rule := func(expression, message string) apiserverv1.ClaimValidationRule {
		return apiserverv1.ClaimValidationRule{Expression: expression, Message: message}
	}
	rules := []apiserverv1.ClaimValidationRule{
		// The API server takes accounts.google.com for https://accounts.google.com
		// (apiserver v0.37, plugin/pkg/authenticator/token/oidc, untrustedIssuer).
		rule("claims.iss == "+quote(is.URL), "iss must be the issuer's URL to the letter"),
		rule(fmt.Sprintf("claims.iat >= 0.0 && claims.iat <= claims.exp && claims.exp <= %d.0", maxTimeSeconds), "iat and exp must be times, in this order"),
		rule("claims.exp - claims.iat <= "+seconds(maxAge), fmt.Sprintf("token must live no longer than maxTokenAge, %s", maxAge)),
		// What is no number fails to compare.
		rule(fmt.Sprintf("!has(claims.nbf) || claims.nbf >= 0.0 && claims.nbf <= %d.0", maxTimeSeconds), "nbf must be a time"),
		rule("!has(claims.jti) || [claims.jti].all(v, "+plain("v")+")", "jti "+plainMessage),
	}
	for _, name := range slices.Sorted(maps.Keys(is.RequiredClaims)) {
		value := is.RequiredClaims[name]
		if value == "" { // Kubernetes would take null for it
			rules = append(rules, rule(fmt.Sprintf("claims[%s] == ''", quote(name)), "required claim must be there, and empty"))
			continue
		}
		rules = append(rules, apiserverv1.ClaimValidationRule{Claim: name, RequiredValue: value})
	}
	for i, r := range is.ClaimValidationRules {
		e.checkPortable(e.at.Child("claimValidationRules").Index(i).Child("expression"), r.Expression)
		rules = append(rules, rule(r.Expression, r.Message))
	}
	match, always := "false", false
	for i := len(is.Mappings) - 1; i >= 0; i-- {
		if m := is.Mappings[i].Match; m == "" {
			match, always = "true", true
		} else {
			match = wrap(m) + " ? true : " + parens(match)
		}
	}
	if !always { // the subject would be empty, and refused; this says why
		rules = append(rules, rule(match, "a mapping must match"))
	}
	return distinct(rules, func(r apiserverv1.ClaimValidationRule) string { return r.Claim + "\x00" + r.Expression })
}

// choose is the expression that gives what the first matching mapping says.
// Where no mapping matches it fails, as it does where the mapping would.
func (e *exporter) choose(name string, of func(*Mapping) string, otherwise string) string {
	var chosen string
	for i := len(e.issuer.Mappings) - 1; i >= 0; i-- {
		m, at := &e.issuer.Mappings[i], e.at.Child("mappings").Index(i)
		value := of(m)
		if value == "" {
			value = otherwise
		}
		e.checkPortable(at.Child(name), value)
		value = wrap(value)
		switch {
		case m.Match == "":
			chosen = value
			continue
		case chosen == "":
			// Never reached by a token that the rule "a mapping must match" lets in.
			chosen = "''"
		}
		if name == "subject" {
			e.checkPortable(at.Child("match"), m.Match)
		}
		chosen = parens(wrap(m.Match) + " ? " + value + " : " + chosen)
	}
	return chosen
}

// marshalWithoutEmpty leaves out what a hand-written file would.
func marshalWithoutEmpty(c *apiserverv1.AuthenticationConfiguration) ([]byte, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	var tree map[string]any
	if err := json.Unmarshal(b, &tree); err != nil {
		return nil, err
	}
	// In the order in which one writes it, and expressions on one line each.
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	err = enc.Encode(struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string `yaml:"kind"`
		JWT        any    `yaml:"jwt"`
	}{c.APIVersion, c.Kind, pruned(tree["jwt"])})
	return out.Bytes(), err
}

func pruned(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if e = pruned(e); e == nil {
				delete(v, k)
			} else {
				v[k] = e
			}
		}
		if len(v) == 0 {
			return nil
		}
	case []any:
		for i, e := range v {
			v[i] = pruned(e)
		}
	}
	return v
}

// checkExported reads file as an API server does when it starts.
func checkExported(file []byte) error {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	codecs := serializer.NewCodecFactory(scheme, serializer.EnableStrict)
	obj, err := runtime.Decode(codecs.UniversalDecoder(apiserver.SchemeGroupVersion), file)
	if err != nil {
		return fmt.Errorf("read what was exported as an API server does: %w", err)
	}
	c, ok := obj.(*apiserver.AuthenticationConfiguration)
	if !ok {
		return fmt.Errorf("exported a %T", obj)
	}
	if errs := validation.ValidateAuthenticationConfiguration(authenticationcel.NewDefaultCompiler(), c, nil); len(errs) > 0 {
		return fmt.Errorf("an API server would refuse what was exported: %w", errs.ToAggregate())
	}
	return nil
}

// certificates are those of caFile, and nothing else that it may hold.
func (e *exporter) certificates() string {
	if e.issuer.CAFile == "" {
		return ""
	}
	rest, err := os.ReadFile(e.issuer.CAFile)
	if err != nil {
		e.errs = append(e.errs, field.Invalid(e.at.Child("caFile"), e.issuer.CAFile, err.Error()))
		return ""
	}
	var out bytes.Buffer
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			_ = pem.Encode(&out, &pem.Block{Type: block.Type, Bytes: block.Bytes}) // a Buffer takes all
		}
	}
	if out.Len() == 0 {
		e.errs = append(e.errs, field.Invalid(e.at.Child("caFile"), e.issuer.CAFile, "holds no PEM certificate"))
	}
	return out.String()
}

// plain is checkPlain of names.go in CEL; size and matches count code points,
// which are bytes where all is ASCII.
func plain(v string) string {
	return fmt.Sprintf(`type(%[1]s) == string && %[1]s.matches('^([!-~]([ -~]{0,%[2]d}[!-~])?)?$') && !%[1]s.lowerAscii().startsWith('system:')`,
		v, maxTextBytes-2)
}

var plainMessage = fmt.Sprintf("must be at most %d printable ASCII characters, no space at either end, and must not start with system:", maxTextBytes)

func seconds(d time.Duration) string {
	s := strconv.FormatFloat(d.Seconds(), 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// wrap makes an expression of the config part of a larger one; the line's end
// closes a comment that it may end with.
func wrap(expression string) string {
	expression = strings.TrimSpace(expression)
	if strings.Contains(expression, "//") {
		expression += "\n"
	}
	return "(" + expression + ")"
}

func parens(expression string) string { return "(" + expression + ")" }

// quote is s as a CEL string. Names and URLs of a valid config need little.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('\'')
	for _, r := range s {
		switch {
		case r == '\'' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('\'')
	return b.String()
}

func distinct[T any](in []T, key func(T) string) []T {
	seen := map[string]bool{}
	return slices.DeleteFunc(in, func(v T) bool {
		k := key(v)
		defer func() { seen[k] = true }()
		return seen[k]
	})
}

package webhook

import (
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/config"
	"github.com/tipstaff-dev/tipstaff/internal/httpserve"
	"github.com/tipstaff-dev/tipstaff/manifests"
)

// Verdict is what a rule says of a request it matches.
type Verdict string

// The verdicts. Deny beats Hold beats Allow.
const (
	Allow Verdict = "allow"
	Hold  Verdict = "hold"
	Deny  Verdict = "deny"
)

const (
	// DefaultInlineWait is short: a waiting review holds a seat of the API server.
	DefaultInlineWait = 3 * time.Second
	// maxInlineWait leaves room below the 10 s of the shipped webhook configuration.
	maxInlineWait = 8 * time.Second
	// DefaultTimeToLive is how long an approval stays usable.
	DefaultTimeToLive = 15 * time.Minute
	// DefaultApprovers is the group that decides where the shipped rules hold.
	// It is outside "tipstaff:", the prefix that tipstaff gives to agents.
	DefaultApprovers = "tipstaff-approvers"
)

// Config is the "webhook" section of the file.
type Config struct {
	// Listen is the TLS address to serve on, host:port.
	Listen string `json:"listen"`
	// TLS is the server's certificate and the CA of the API server's client certificate.
	TLS httpserve.TLS `json:"tls"`
	// InlineWait is how long a held request waits for a decision before it gets
	// a 429. Zero means 3s; at most 8s.
	InlineWait metav1.Duration `json:"inlineWait,omitempty"`
	// Default is the verdict on what no rule matches: allow, hold or deny.
	// Empty means allow.
	Default Verdict `json:"default,omitempty"`
	// Variables are named expressions for all rules.
	Variables []Variable `json:"variables,omitempty"`
	// Rules judge agents' changes. Where neither Rules nor RuleFiles is given, the
	// shipped set does, manifests/rules/default.yaml.
	Rules []Rule `json:"rules,omitempty"`
	// RuleFiles are files with more variables and rules, read as if they stood
	// after those of this file. "default" is the shipped set. A path is taken
	// from the folder of this file.
	RuleFiles []string `json:"ruleFiles,omitempty"`

	files map[string]*RuleFile // what stands in them, once read
}

// ShippedRules is what RuleFiles calls the shipped set.
const ShippedRules = "default"

// Variable is a named expression that rules and later variables read.
type Variable struct {
	// Name is what they call it: variables.<name>.
	Name string `json:"name"`
	// Expression is CEL over what a rule sees and the variables before this one.
	// It is evaluated at most once for a request, when the first of them reads it; if
	// that fails, so does who reads it.
	Expression string `json:"expression"`
}

// Rule is one risk rule.
type Rule struct {
	// Name is told to agents and approvers and stands in the audit log.
	Name string `json:"name"`
	// Match is a CEL expression over object, oldObject, request, agent and variables.
	Match string `json:"match"`
	// Verdict is allow, hold or deny.
	Verdict Verdict `json:"verdict"`
	// Risk is low, medium, high or critical: what approvers see. Empty means medium.
	Risk v1alpha1.Risk `json:"risk,omitempty"`
	// Approvers are the groups whose members decide. A rule that holds needs one.
	Approvers []string `json:"approvers,omitempty"`
	// Quorum is how many different people must approve. Zero means 1.
	Quorum int32 `json:"quorum,omitempty"`
	// BreakGlass are groups of which one member alone may approve in an
	// emergency, past the quorum, with a reason. It is told by an event, a metric
	// and a log line, and stays marked. Empty means nobody.
	BreakGlass []string `json:"breakGlass,omitempty"`
	// OwnerMayDecide lets the person on whose behalf the run acts decide, if they
	// are in the approvers' groups.
	OwnerMayDecide bool `json:"ownerMayDecide,omitempty"`
	// TimeToLive is how long an approval stays usable. Zero means 15m.
	TimeToLive metav1.Duration `json:"timeToLive,omitempty"`
	// Message says why, to approvers and agents.
	Message string `json:"message,omitempty"`
}

// Validate reports everything wrong with c. It changes nothing.
func (c *Config) Validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if c.Listen == "" {
		errs = append(errs, field.Required(at.Child("listen"), `address to serve on, such as ":8443"`))
	}
	errs = append(errs, c.TLS.Validate(at.Child("tls"), true)...)
	if w := c.InlineWait.Duration; w < 0 || w > maxInlineWait {
		errs = append(errs, field.Invalid(at.Child("inlineWait"), w.String(), "must be between 0 and 8s; leave out for 3s"))
	}
	switch c.Default {
	case "", Allow, Hold, Deny:
	default:
		errs = append(errs, field.NotSupported(at.Child("default"), c.Default, []Verdict{Allow, Hold, Deny}))
	}
	seen := map[string]bool{}
	for i, name := range c.RuleFiles {
		if seen[name] {
			errs = append(errs, field.Duplicate(at.Child("ruleFiles").Index(i), name))
		}
		seen[name] = true
	}
	if len(seen) < len(c.RuleFiles) {
		return errs // every name in a file given twice would be one more
	}
	lists, fault := c.ruleLists(at)
	if fault != nil {
		return append(errs, fault)
	}
	_, ruleErrs := compileLists(lists)
	return append(errs, ruleErrs...)
}

// Includes are the files of rules that c names.
func (c *Config) Includes(at *field.Path) []config.Include {
	c.files = map[string]*RuleFile{}
	var files []config.Include
	for i, name := range c.RuleFiles {
		if name == ShippedRules || c.files[name] != nil {
			continue
		}
		f := &RuleFile{}
		c.files[name] = f
		files = append(files, config.Include{At: at.Child("ruleFiles").Index(i), File: name, Into: f})
	}
	return files
}

// ruleLists are the rules and variables in force: the shipped rules where c names none.
func (c *Config) ruleLists(at *field.Path) ([]ruleList, *field.Error) {
	lists := []ruleList{{variables: c.Variables, rules: c.Rules, at: at}}
	count := len(c.Rules)
	add := func(name string, at *field.Path) *field.Error {
		f := c.files[name]
		if name == ShippedRules {
			shipped, err := DefaultRules()
			if err != nil {
				return field.InternalError(at, err)
			}
			f = &RuleFile{Rules: shipped}
		}
		if f == nil {
			return field.InternalError(at, fmt.Errorf("%s was not read", name))
		}
		lists = append(lists, ruleList{variables: f.Variables, rules: f.Rules, at: at})
		count += len(f.Rules)
		return nil
	}
	for i, name := range c.RuleFiles {
		if err := add(name, at.Child("ruleFiles").Index(i)); err != nil {
			return nil, err
		}
	}
	if count == 0 && len(c.RuleFiles) == 0 {
		if err := add(ShippedRules, at); err != nil {
			return nil, err
		}
	}
	if count == 0 {
		return nil, field.Required(at.Child("ruleFiles").Index(0), "no rule stands in any of these files: name the shipped set with \"default\", or leave ruleFiles out")
	}
	return lists, nil
}

func (r *Rule) validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.Name == "" {
		errs = append(errs, field.Required(at.Child("name"), "agents and approvers are told it"))
	} else if len(r.Name) > 63 {
		errs = append(errs, field.TooLong(at.Child("name"), r.Name, 63))
	}
	switch r.Verdict {
	case Allow, Deny:
	case Hold:
		if len(r.Approvers) == 0 {
			errs = append(errs, field.Required(at.Child("approvers"), "a rule that holds needs a group that decides"))
		}
	case "":
		errs = append(errs, field.Required(at.Child("verdict"), "allow, hold or deny"))
	default:
		errs = append(errs, field.NotSupported(at.Child("verdict"), r.Verdict, []Verdict{Allow, Hold, Deny}))
	}
	for _, list := range []struct {
		name   string
		groups []string
	}{{"approvers", r.Approvers}, {"breakGlass", r.BreakGlass}} {
		for i, g := range list.groups {
			if g == "" || strings.HasPrefix(g, v1alpha1.GroupPrefix) {
				errs = append(errs, field.Invalid(at.Child(list.name).Index(i), g, "must be a group of people; tipstaff: groups are agents'"))
			}
		}
	}
	switch r.Risk {
	case "", "low", "medium", "high", "critical":
	default:
		errs = append(errs, field.NotSupported(at.Child("risk"), r.Risk, []v1alpha1.Risk{"low", "medium", "high", "critical"}))
	}
	if r.Quorum < 0 {
		errs = append(errs, field.Invalid(at.Child("quorum"), r.Quorum, "must not be negative; leave out for 1"))
	}
	if r.TimeToLive.Duration < 0 {
		errs = append(errs, field.Invalid(at.Child("timeToLive"), r.TimeToLive.Duration.String(), "must not be negative; leave out for 15m"))
	}
	return errs
}

// withDefaults fills what r leaves out.
func (r Rule) withDefaults() Rule {
	if r.Risk == "" {
		r.Risk = "medium"
	}
	if r.Quorum == 0 {
		r.Quorum = 1
	}
	if r.TimeToLive.Duration == 0 {
		r.TimeToLive.Duration = DefaultTimeToLive
	}
	return r
}

// DefaultRules are the shipped rules, in force where the config has none.
func DefaultRules() ([]Rule, error) {
	var f struct {
		Rules []Rule `json:"rules"`
	}
	j, err := yaml.YAMLToJSONStrict(manifests.DefaultRules)
	if err != nil {
		return nil, fmt.Errorf("read the shipped rules: %w", err)
	}
	strict, err := kjson.UnmarshalStrict(j, &f)
	if err != nil {
		return nil, fmt.Errorf("read the shipped rules: %w", err)
	}
	if len(strict) > 0 {
		return nil, fmt.Errorf("read the shipped rules: %w", strict[0])
	}
	return f.Rules, nil
}

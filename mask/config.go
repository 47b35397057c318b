package mask

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Config is the "masking" section of the file: what is masked beside what is
// masked in every cluster (see docs/masking.md).
type Config struct {
	// Fields are further fields whose values are masked, of custom resources for
	// example.
	Fields []FieldRule `json:"fields,omitempty"`
	// Names corrects what is taken for a credential by its name: that of an
	// environment variable, a flag, a ConfigMap's key, an annotation (what follows
	// its slash), a text's assignment.
	Names Names `json:"names,omitempty"`
	// DisabledFormats are known formats of credentials that are not looked for,
	// by their names in gitleaks' default rules.
	DisabledFormats []string `json:"disabledFormats,omitempty"`
}

// FieldRule names fields of one kind.
type FieldRule struct {
	// Resource is the kind's resource as in its path (databases), of any group.
	Resource string `json:"resource"`
	// Kind is the kind (Database), of any group.
	Kind string `json:"kind"`
	// Paths are the fields: members' names with dots between, each element of a
	// list being meant. "*" stands for any member, "\." for a dot in a name.
	// Whatever stands at a path is masked whole. Such as: spec.users.password
	Paths []string `json:"paths"`
}

// Names are names, compared whole, upper and lower case being equal.
type Names struct {
	// Credentials are always credentials.
	Credentials []string `json:"credentials,omitempty"`
	// Plain never are.
	Plain []string `json:"plain,omitempty"`
}

const maxRules = 1000

// Resources are those of which c masks fields.
func (c *Config) Resources() []string {
	var all []string
	for _, f := range c.Fields {
		all = append(all, f.Resource)
	}
	return all
}

// Validate reports everything wrong with c. It changes nothing.
func (c *Config) Validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(c.Fields) > maxRules {
		errs = append(errs, field.TooMany(at.Child("fields"), len(c.Fields), maxRules))
	}
	for i, f := range c.Fields {
		at := at.Child("fields").Index(i)
		if f.Resource == "" || f.Resource != strings.ToLower(f.Resource) || strings.ContainsAny(f.Resource, "./ ") {
			errs = append(errs, field.Invalid(at.Child("resource"), f.Resource, `must be a resource's plural name without its group, such as "databases"`))
		}
		if f.Kind == "" || Wraps(f.Kind) {
			errs = append(errs, field.Invalid(at.Child("kind"), f.Kind, `must be the kind of one object, such as "Database"`))
		}
		if len(f.Paths) == 0 {
			errs = append(errs, field.Required(at.Child("paths"), "such as spec.password"))
		}
		for j, p := range f.Paths {
			parts, err := pathParts(p)
			if err == nil && (parts[0] == "kind" || parts[0] == "apiVersion" || parts[0] == "metadata") {
				err = fmt.Errorf("metadata, kind and apiVersion can't be masked")
			}
			if err != nil {
				errs = append(errs, field.Invalid(at.Child("paths").Index(j), p, err.Error()))
			}
		}
	}
	for i, n := range c.Names.Plain {
		if slices.ContainsFunc(c.Names.Credentials, func(m string) bool { return strings.EqualFold(m, n) }) {
			errs = append(errs, field.Invalid(at.Child("names", "plain").Index(i), n, "is among the credentials too"))
		}
	}
	d, err := newDetectors()
	if err != nil {
		return append(errs, field.InternalError(at, err))
	}
	for i, id := range c.DisabledFormats {
		if !slices.ContainsFunc(d.formats, func(f format) bool { return f.rule.RuleID == id }) {
			errs = append(errs, field.NotFound(at.Child("disabledFormats").Index(i), id))
		}
	}
	return errs
}

// pathParts gives the names of a path.
func pathParts(p string) ([]string, error) {
	var parts []string
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		switch {
		case p[i] == '\\' && i+1 < len(p):
			i++
			b.WriteByte(p[i])
		case p[i] == '.':
			parts = append(parts, b.String())
			b.Reset()
		default:
			b.WriteByte(p[i])
		}
	}
	parts = append(parts, b.String())
	if slices.Contains(parts, "") || len(parts) > 64 {
		return nil, fmt.Errorf("must be members' names with dots between, such as spec.users.password")
	}
	return parts, nil
}

// rules gives what c makes of the rules of every cluster. c is valid.
func (c *Config) rules() *rules {
	r := defaultRules()
	for _, f := range c.Fields {
		k := r.kinds[f.Kind]
		if k == nil {
			k = &kindRules{kind: f.Kind, node: &node{}}
		} else {
			k = &kindRules{kind: k.kind, node: k.node.clone(), secret: k.secret}
		}
		k.own = true
		for _, p := range f.Paths {
			if parts, err := pathParts(p); err == nil {
				k.node.add(parts)
			}
		}
		r.kinds[f.Kind] = k
		r.resources[f.Resource] = k
	}
	for _, n := range c.Names.Credentials {
		r.names[strings.ToLower(n)] = true
	}
	for _, n := range c.Names.Plain {
		r.names[strings.ToLower(n)] = false
	}
	return r
}

func (n *node) clone() *node {
	if n == nil {
		return nil
	}
	c := *n
	c.any = n.any.clone()
	c.kids = make(map[string]*node, len(n.kids))
	for name, k := range n.kids {
		c.kids[name] = k.clone()
	}
	return &c
}

func (n *node) add(parts []string) {
	if len(parts) == 0 {
		n.act, n.kids, n.any = actMark, nil, nil
		return
	}
	switch n.act {
	case actMark, actMark64, actValues, actValues64:
		return // masked as a whole already
	}
	if parts[0] == "*" {
		if n.any == nil {
			n.any = &node{}
		}
		n.any.add(parts[1:])
		for _, k := range n.kids {
			k.add(parts[1:])
		}
		return
	}
	k := n.kids[parts[0]]
	if k == nil {
		k = n.any.clone() // what holds of every member holds of this one
		if k == nil {
			k = &node{}
		}
		if n.kids == nil {
			n.kids = map[string]*node{}
		}
		n.kids[parts[0]] = k
	}
	k.add(parts[1:])
}

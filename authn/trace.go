package authn

import (
	"fmt"
	"strings"
	"time"
)

// trace takes note of what verify and judge did, for Explain. A nil trace takes
// none; the checks are the same.
type trace struct {
	checks []Check
	exprs  []*expression
	claims map[string]any
}

// about gives what a check's holder may see of it. Nil says nothing.
type about func() string

// step notes a check and gives back its error.
func (t *trace) step(name string, err error, details about) error {
	if t == nil {
		return err
	}
	c := Check{Name: name, OK: err == nil}
	var parts []string
	if err != nil {
		parts = append(parts, err.Error())
	}
	if details != nil {
		if d := details(); d != "" {
			parts = append(parts, d)
		}
	}
	c.Detail = strings.Join(parts, "; ")
	t.checks = append(t.checks, c)
	return err
}

func (t *trace) fail(name string, err error) { _ = t.step(name, err, nil) }

// tried notes whether a mapping matched.
func (t *trace) tried(m *mapping, matched bool) {
	if t == nil {
		return
	}
	if matched {
		t.checks = append(t.checks, Check{Name: "mapping", OK: true, Detail: m.label + " matches"})
	} else {
		t.checks = append(t.checks, Check{Name: "mapping", OK: true, Detail: m.label + " does not match, the next is tried"})
	}
}

// uses notes an expression that is evaluated.
func (t *trace) uses(e *expression) {
	if t != nil {
		t.exprs = append(t.exprs, e)
	}
}

// holds notes the claims.
func (t *trace) holds(claims map[string]any) {
	if t != nil {
		t.claims = claims
	}
}

func (t *trace) aboutKeys(is *issuer) about {
	if t == nil {
		return nil
	}
	return func() string {
		if is.keySetFile != "" {
			return "from " + is.keySetFile
		}
		return "from " + is.url
	}
}

func (t *trace) aboutHeader(is *issuer, h header) about {
	if t == nil {
		return nil
	}
	return func() string {
		return fmt.Sprintf("the token is signed with %q, the config allows %s", h.Algorithm, strings.Join(is.algorithms, ", "))
	}
}

func (t *trace) aboutSignature(keys *keySet, h header) about {
	if t == nil {
		return nil
	}
	return func() string {
		return fmt.Sprintf("the token names key %q, the issuer has %s", h.KeyID, strings.Join(keys.ids(), ", "))
	}
}

func (t *trace) aboutAudience(is *issuer) about {
	if t == nil {
		return nil
	}
	return func() string {
		auds, err := audiencesOf(t.claims)
		if err != nil {
			return ""
		}
		return fmt.Sprintf("the token is for %q, wanted is one of %q", auds, is.audiences)
	}
}

func (t *trace) aboutTimes(is *issuer, when times) about {
	if t == nil {
		return nil
	}
	return func() string {
		if when.expires.IsZero() || when.issued.IsZero() {
			return ""
		}
		now := is.now()
		s := fmt.Sprintf("issued %s (%s), expires %s (%s), may be %s old, clock skew %s",
			when.issued.UTC().Format(time.RFC3339), fromNow(when.issued, now),
			when.expires.UTC().Format(time.RFC3339), fromNow(when.expires, now), is.maxAge, is.skew)
		if !when.notBefore.IsZero() {
			s += fmt.Sprintf(", not before %s (%s)", when.notBefore.UTC().Format(time.RFC3339), fromNow(when.notBefore, now))
		}
		return s
	}
}

func fromNow(at, now time.Time) string {
	if d := at.Sub(now).Round(time.Second); d >= 0 {
		return "in " + d.String()
	}
	return now.Sub(at).Round(time.Second).String() + " ago"
}

func (t *trace) aboutRequired(is *issuer) about {
	if t == nil {
		return nil
	}
	return func() string {
		var parts []string
		for _, r := range is.required {
			has := "missing"
			if v, ok := t.claims[r.name]; ok {
				has = shown(v)
			}
			parts = append(parts, fmt.Sprintf("%s is %s, wanted is %q", r.name, has, r.value))
		}
		return strings.Join(parts, ", ")
	}
}

func (t *trace) aboutProfile(is *issuer, name string) about {
	if t == nil {
		return nil
	}
	return func() string {
		if is.profiles[name] == nil {
			return fmt.Sprintf("profile %q is not configured: nothing is bound, only its group is given", name)
		}
		return fmt.Sprintf("profile %q", name)
	}
}

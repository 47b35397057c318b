package authn

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/access"
	"github.com/tipstaff-dev/tipstaff/internal/httpserve"
)

// Defaults of the optional settings.
const (
	defaultMaxTokenAge = 24 * time.Hour
	defaultClockSkew   = 30 * time.Second
	maxClockSkew       = 10 * time.Minute
)

// algorithms that an issuer may use: signatures with a public key, nothing else.
// HMAC would let whoever knows the "public" secret sign; "none" anyone.
var algorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

var defaultAlgorithms = []string{"RS256", "ES256"}

// issuerName keeps an issuer's name unambiguous inside agent:<issuer>:<subject>.
var issuerName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Config is the "authn" section of the file.
type Config struct {
	// Listen is the TLS address to serve TokenReviews on, host:port. Without it,
	// and without TLS, no API server asks here: the issuers are the proxy's alone.
	Listen string `json:"listen,omitempty"`
	// TLS is the server's certificate, and the CA of the client certificates
	// that callers must present.
	TLS httpserve.TLS `json:"tls,omitzero"`
	// Issuers are the OIDC issuers whose tokens are agents' tokens.
	Issuers []Issuer `json:"issuers"`
	// Profiles say what a run of a profile may do: its bindings are made before
	// its first token is answered. A profile that a mapping gives and that isn't
	// here gets none; its group, tipstaff:profile:<name>, can be bound by hand.
	Profiles []Profile `json:"profiles,omitempty"`
}

// Profile is what every run of that profile may do.
type Profile struct {
	// Name is what a mapping's profile gives.
	Name string `json:"name"`
	// Access is what a run gets, within the bounds of the section "access".
	Access []ProfileAccess `json:"access"`
}

// ProfileAccess is some cluster roles in some namespaces. Both may be fixed, or
// come from claims by a CEL expression that gives a list of strings; then what
// it gives is added to the fixed ones.
type ProfileAccess struct {
	// ClusterRoles are the roles, of those in access.clusterRoles.
	ClusterRoles []string `json:"clusterRoles,omitempty"`
	// ClusterRolesFrom is CEL over claims, such as claims.cluster_roles.
	ClusterRolesFrom string `json:"clusterRolesFrom,omitempty"`
	// Namespaces are where they hold; ['*'] is the whole cluster.
	Namespaces []string `json:"namespaces,omitempty"`
	// NamespacesFrom is CEL over claims, such as [claims.environment].
	NamespacesFrom string `json:"namespacesFrom,omitempty"`
	// Path is proxy (through the proxy only, where secrets are masked) or direct
	// (both ways). Empty means proxy.
	Path v1alpha1.Path `json:"path,omitempty"`
}

// Issuer is one OIDC issuer.
type Issuer struct {
	// Name stands for the issuer in usernames: agent:<name>:<subject>.
	// Lower-case letters, digits and hyphens. Changing it changes every username.
	Name string `json:"name"`
	// URL is the issuer exactly as its tokens' iss claim has it, https only
	// unless keySetFile is set: then it is compared and never fetched.
	URL string `json:"url"`
	// KeySetFile holds the issuer's keys as a JSON Web Key Set (RFC 7517), for
	// clusters that can't reach the issuer. It is read again when it changes.
	// Empty means that they are fetched by discovery from the URL.
	KeySetFile string `json:"keySetFile,omitempty"`
	// CAFile holds the PEM certificates that sign the issuer's own certificate.
	// Empty means the system's.
	CAFile string `json:"caFile,omitempty"`
	// Audiences: a token must be meant for at least one of them. The API server
	// must list one of them in its --api-audiences.
	Audiences []string `json:"audiences"`
	// Algorithms that tokens may be signed with. Empty means RS256 and ES256.
	Algorithms []string `json:"algorithms,omitempty"`
	// MaxTokenAge refuses tokens issued longer ago, whenever they expire. Zero means 24h.
	MaxTokenAge metav1.Duration `json:"maxTokenAge,omitempty"`
	// ClockSkew is by how much the issuer's clock may differ. Zero means 30s, at most 10m.
	ClockSkew metav1.Duration `json:"clockSkew,omitempty"`
	// RequiredClaims must be in a token, as strings of exactly these values.
	RequiredClaims map[string]string `json:"requiredClaims,omitempty"`
	// ClaimValidationRules are CEL over claims; each must give true
	// (Kubernetes, AuthenticationConfiguration, claimValidationRules).
	ClaimValidationRules []ValidationRule `json:"claimValidationRules,omitempty"`
	// Mappings say who a token stands for. The first whose match is true decides.
	Mappings []Mapping `json:"mappings"`
	// UserValidationRules are CEL over user, the identity that came out
	// (user.username, user.groups, user.extra); each must give true
	// (Kubernetes, AuthenticationConfiguration, userValidationRules).
	UserValidationRules []ValidationRule `json:"userValidationRules,omitempty"`
}

// ValidationRule is a condition, and what is said where it doesn't hold.
type ValidationRule struct {
	// Expression is the CEL, which must give a bool.
	Expression string `json:"expression"`
	// Message says what must hold; it goes into logs. Empty means the expression.
	Message string `json:"message,omitempty"`
}

// Mapping says, in CEL over the variable claims, who a token stands for.
// Kubernetes' CEL libraries are there. An expression that fails, such as one
// that reads a claim which isn't there, refuses the token: write
// claims.?model.orValue("") for what may be missing.
type Mapping struct {
	// Name stands for the mapping in logs, metrics and `tipstaff authn test`.
	// Empty means mappings[<its place>].
	Name string `json:"name,omitempty"`
	// Match says whether this mapping is for the token. Empty means true.
	Match string `json:"match,omitempty"`
	// Subject is the last part of the username. Empty means claims.sub.
	Subject string `json:"subject,omitempty"`
	// Run is the run's id. Required: an agent without a run is refused.
	Run string `json:"run"`
	// Model is the language model that the agent says it runs. Empty means unknown.
	Model string `json:"model,omitempty"`
	// Owner is the person on whose behalf the run acts. Empty means unknown.
	Owner string `json:"owner,omitempty"`
	// Task is what the run is for. Empty means unknown.
	Task string `json:"task,omitempty"`
	// Profile names what the run may do. Empty means 'default'.
	Profile string `json:"profile,omitempty"`
}

// Validate reports everything wrong with c, what limits don't allow included. It
// changes nothing; it reads the files that c names.
func (c *Config) Validate(at *field.Path, limits *access.Limits) field.ErrorList {
	var errs field.ErrorList
	if !c.unserved() {
		if c.Listen == "" {
			errs = append(errs, field.Required(at.Child("listen"), `address to serve on, such as ":8443"`))
		} else if _, _, err := net.SplitHostPort(c.Listen); err != nil {
			errs = append(errs, field.Invalid(at.Child("listen"), c.Listen, `must be host:port, such as ":8443"`))
		}
		errs = append(errs, c.TLS.Validate(at.Child("tls"), true)...)
	}
	if len(c.Issuers) == 0 {
		errs = append(errs, field.Required(at.Child("issuers"), "at least one issuer of agents' tokens"))
	}
	_, faults := c.compile(at, limits)
	return append(errs, faults...)
}

// unserved reports whether no TokenReviews are to be served.
func (c *Config) unserved() bool {
	return c.Listen == "" && c.TLS.CertFile == "" && c.TLS.KeyFile == "" && c.TLS.ClientCAFile == "" && len(c.TLS.ClientNames) == 0
}

// compile makes the issuers and profiles that c describes, and reports
// everything in them that doesn't hold.
func (c *Config) compile(at *field.Path, limits *access.Limits) ([]*issuer, field.ErrorList) {
	var issuers []*issuer
	profiles, errs := compileProfiles(c.Profiles, limits, at.Child("profiles"))
	names, urls := map[string]bool{}, map[string]bool{}
	for i := range c.Issuers {
		is, at := &c.Issuers[i], at.Child("issuers").Index(i)
		compiled, faults := is.compile(at)
		errs = append(errs, faults...)
		if is.Name != "" && names[is.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), is.Name))
		}
		if is.URL != "" && urls[is.URL] {
			errs = append(errs, field.Duplicate(at.Child("url"), is.URL))
		}
		names[is.Name], urls[is.URL] = true, true
		compiled.profiles = profiles
		issuers = append(issuers, compiled)
	}
	return issuers, errs
}

// compile makes the issuer that is describes, all but its profiles and log.
func (is *Issuer) compile(at *field.Path) (*issuer, field.ErrorList) {
	errs := is.validate(at)
	out := &issuer{
		name: is.Name, url: is.URL, caFile: is.CAFile, keySetFile: is.KeySetFile, audiences: is.Audiences, algorithms: is.Algorithms,
		maxAge: is.MaxTokenAge.Duration, skew: is.ClockSkew.Duration, now: time.Now,
		firstRetry: defaultFirstRetry, fileInterval: defaultFileInterval, fetchTimeout: defaultFetchTimeout,
	}
	if len(out.algorithms) == 0 {
		out.algorithms = defaultAlgorithms
	}
	if out.maxAge == 0 {
		out.maxAge = defaultMaxTokenAge
	}
	if out.skew == 0 {
		out.skew = defaultClockSkew
	}
	var faults field.ErrorList
	out.required, faults = requiredClaims(is.RequiredClaims, at.Child("requiredClaims"))
	errs = append(errs, faults...)
	out.claimRules, faults = compileRules(is.ClaimValidationRules, "claimValidationRules", at, compileCondition)
	errs = append(errs, faults...)
	out.userRules, faults = compileRules(is.UserValidationRules, "userValidationRules", at, compileUserExpression)
	errs = append(errs, faults...)
	labels := map[string]bool{}
	for i := range is.Mappings {
		at := at.Child("mappings").Index(i)
		m, faults := compile(&is.Mappings[i], at)
		errs = append(errs, faults...)
		m.label = labelOf(is.Mappings[i].Name, i)
		if labels[m.label] {
			errs = append(errs, field.Duplicate(at.Child("name"), m.label))
		}
		labels[m.label] = true
		out.mappings = append(out.mappings, m)
	}
	return out, errs
}

// validate reports what is wrong with is but for its expressions.
func (is *Issuer) validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case is.Name == "":
		errs = append(errs, field.Required(at.Child("name"), "stands in usernames: agent:<name>:<subject>"))
	case !issuerName.MatchString(is.Name):
		errs = append(errs, field.Invalid(at.Child("name"), is.Name, "must be at most 63 lower-case letters, digits and hyphens"))
	case is.Name == "system":
		errs = append(errs, field.Invalid(at.Child("name"), is.Name, "is reserved for Kubernetes"))
	case is.Name == v1alpha1.IssuerKubernetes:
		errs = append(errs, field.Invalid(at.Child("name"), is.Name, "is reserved for agents that use a service account of this cluster (clusterAgents)"))
	}
	if is.URL == "" {
		errs = append(errs, field.Required(at.Child("url"), "the issuer exactly as in its tokens' iss claim"))
	} else if why := is.badURL(); why != "" {
		errs = append(errs, field.Invalid(at.Child("url"), is.URL, why))
	}
	if is.KeySetFile != "" {
		if why := badKeySetFile(is.KeySetFile); why != "" {
			errs = append(errs, field.Invalid(at.Child("keySetFile"), is.KeySetFile, why))
		}
		if is.CAFile != "" {
			errs = append(errs, field.Forbidden(at.Child("caFile"), "with keySetFile the issuer is never asked"))
		}
	}
	if is.CAFile != "" {
		if _, err := readCA(is.CAFile); err != nil {
			errs = append(errs, field.Invalid(at.Child("caFile"), is.CAFile, err.Error()))
		}
	}
	if len(is.Audiences) == 0 {
		errs = append(errs, field.Required(at.Child("audiences"), "without one, a token meant for another service would be an identity here"))
	}
	for i, aud := range is.Audiences {
		if aud == "" {
			errs = append(errs, field.Required(at.Child("audiences").Index(i), "must not be empty"))
		}
	}
	for i, alg := range is.Algorithms {
		if !slices.Contains(algorithms, alg) {
			errs = append(errs, field.NotSupported(at.Child("algorithms").Index(i), alg, algorithms))
		}
	}
	if is.MaxTokenAge.Duration < 0 {
		errs = append(errs, field.Invalid(at.Child("maxTokenAge"), is.MaxTokenAge.Duration.String(), "must not be negative; leave out for 24h"))
	}
	if d := is.ClockSkew.Duration; d < 0 || d > maxClockSkew {
		errs = append(errs, field.Invalid(at.Child("clockSkew"), d.String(), "must be between 0 and 10m; leave out for 30s"))
	}
	if len(is.Mappings) == 0 {
		errs = append(errs, field.Required(at.Child("mappings"), "at least one, or none of the issuer's tokens is anybody's"))
	}
	return errs
}

// badURL says what is wrong with the URL; empty if nothing. One that is never
// fetched only has to be what a token's iss can be (RFC 7519 section 4.1.1).
func (is *Issuer) badURL() string {
	if is.KeySetFile == "" {
		return badIssuerURL(is.URL)
	}
	if len(is.URL) > maxIssuerBytes || strings.ContainsFunc(is.URL, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return fmt.Sprintf("must be at most %d printable ASCII characters without spaces", maxIssuerBytes)
	}
	return ""
}

// maxIssuerBytes bounds an issuer's name for itself.
const maxIssuerBytes = 512

func badKeySetFile(name string) string {
	b, err := readBounded(name)
	if err != nil {
		return err.Error()
	}
	keys, err := usableKeys(b)
	if err != nil {
		return err.Error()
	}
	if len(keys) == 0 {
		return fmt.Sprintf("holds no key that may sign tokens: public, RSA of %d to %d bits, EC or Ed25519, not for encryption", minRSABits, maxRSABits)
	}
	return ""
}

func badIssuerURL(s string) string {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return "is not a URL"
	case u.Scheme != "https":
		return "must be https"
	case u.Host == "":
		return "needs a host"
	case u.User != nil:
		return "must not carry a user or password"
	case u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#"):
		return "must have neither query nor fragment (OpenID Connect Discovery 1.0 section 3, issuer)"
	}
	return ""
}

// readCA reads PEM certificates. Its errors don't repeat the name, which the
// field already shows.
func readCA(name string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(name)
	if err != nil {
		return nil, withoutPath(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("holds no PEM certificate")
	}
	return pool, nil
}

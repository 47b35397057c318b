package authn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// ErrNotOurs says that a token is of no configured issuer, or no JWT at all.
// Pass it over quietly: another authenticator may know it.
var ErrNotOurs = errors.New("token is of no configured issuer")

// RefusedError says why a token of a configured issuer is refused. Refuse the
// request; the text may be shown and logged, it holds nothing of the token.
type RefusedError struct {
	// Reason is the check that failed.
	Reason string
}

// Error gives the reason.
func (e *RefusedError) Error() string { return "token refused: " + e.Reason }

func refuse(format string, args ...any) error {
	return &RefusedError{Reason: fmt.Sprintf(format, args...)}
}

// Revoked knows which runs are revoked. An error means that it isn't known now;
// Authenticate then refuses.
type Revoked interface {
	Revoked(a v1alpha1.Agent) (reason string, revoked bool, err error)
}

// Authenticator verifies agents' tokens.
type Authenticator struct {
	issuers map[string]*issuer // by URL
	revoked Revoked
	log     *slog.Logger
	tried   chan struct{}
}

// New makes an Authenticator of cfg, which it validates apart from the parts
// that serve (listen, tls). It asks no issuer yet: Run does.
func New(cfg Config, revoked Revoked, log *slog.Logger) (*Authenticator, error) {
	if revoked == nil {
		return nil, errors.New("authn needs to know revocations")
	}
	a := &Authenticator{issuers: map[string]*issuer{}, revoked: revoked, log: log, tried: make(chan struct{})}
	names := map[string]bool{}
	for i := range cfg.Issuers {
		c, at := &cfg.Issuers[i], field.NewPath("authn", "issuers").Index(i)
		if errs := c.validate(at); len(errs) > 0 {
			return nil, errs.ToAggregate()
		}
		if a.issuers[c.URL] != nil {
			return nil, field.Duplicate(at.Child("url"), c.URL)
		}
		if names[c.Name] {
			return nil, field.Duplicate(at.Child("name"), c.Name)
		}
		names[c.Name] = true
		is := &issuer{
			name: c.Name, url: c.URL, caFile: c.CAFile, audiences: c.Audiences, algorithms: c.Algorithms,
			maxAge: c.MaxTokenAge.Duration, skew: c.ClockSkew.Duration, now: time.Now, log: log,
			firstRetry: defaultFirstRetry,
		}
		if len(is.algorithms) == 0 {
			is.algorithms = defaultAlgorithms
		}
		if is.maxAge == 0 {
			is.maxAge = defaultMaxTokenAge
		}
		if is.skew == 0 {
			is.skew = defaultClockSkew
		}
		for j := range c.Mappings {
			m, errs := compile(&c.Mappings[j], at.Child("mappings").Index(j))
			if len(errs) > 0 {
				return nil, errs.ToAggregate()
			}
			is.mappings = append(is.mappings, m)
		}
		a.issuers[c.URL] = is
	}
	return a, nil
}

// Run keeps every issuer's keys fresh until ctx ends. An issuer that doesn't
// answer is tried again; it never ends Run. Run is called once.
func (a *Authenticator) Run(ctx context.Context) error {
	var all, first sync.WaitGroup
	first.Add(len(a.issuers))
	for _, is := range a.issuers {
		all.Go(func() { is.run(ctx, sync.OnceFunc(first.Done)) })
	}
	all.Go(func() {
		first.Wait()
		close(a.tried)
	})
	all.Wait()
	return nil
}

// Tried is closed when Run has asked every issuer once, whether or not it
// answered: from then on nothing is refused that a moment's patience would let in.
func (a *Authenticator) Tried() <-chan struct{} { return a.tried }

// Authenticate says which agent's run token belongs to. It returns [ErrNotOurs]
// or a [*RefusedError]; revocation is asked on every call.
func (a *Authenticator) Authenticate(ctx context.Context, token string) (v1alpha1.Agent, error) {
	v, err := a.authenticate(ctx, token)
	return v.agent, err
}

// authenticate is Authenticate with the audiences, which a TokenReview needs.
func (a *Authenticator) authenticate(ctx context.Context, token string) (verified, error) {
	is := a.issuers[peekIssuer(token)]
	if is == nil {
		return verified{}, ErrNotOurs
	}
	v, err := is.verify(ctx, token)
	if err != nil {
		return verified{}, err
	}
	reason, revoked, err := a.revoked.Revoked(v.agent)
	switch {
	case err != nil:
		a.log.WarnContext(ctx, "token refused, revocations are not known", "issuer", is.name, "run", v.agent.Run, "error", err)
		return verified{}, refuse("issuer %q: it could not be checked whether the run is revoked", is.name)
	case revoked:
		return verified{}, refuse("issuer %q: run %q is revoked: %s", is.name, v.agent.Run, reason)
	}
	return v, nil
}

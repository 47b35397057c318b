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
	"github.com/tipstaff-dev/tipstaff/internal/access"
)

// ErrNotOurs says that a token is of no configured issuer, or no JWT at all.
// Pass it over quietly: another authenticator may know it.
var ErrNotOurs = errors.New("token is of no configured issuer")

// RefusedError says why a token of a configured issuer is refused. Refuse the
// request; the text may be shown and logged, it holds nothing of the token.
type RefusedError struct {
	// Reason is the check that failed.
	Reason string

	issuer, mapping string
	outcome         outcome
}

// Error gives the reason.
func (e *RefusedError) Error() string { return "token refused: " + e.Reason }

func (is *issuer) refuse(o outcome, mapping string, err error) error {
	return &RefusedError{Reason: fmt.Sprintf("issuer %q: %v", is.name, err), issuer: is.name, mapping: mapping, outcome: o}
}

func labelled(m *mapping, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", m.label, err)
}

func labelledProfile(name string, err error) error {
	return fmt.Errorf("profile %q: %w", name, err)
}

// Revoked knows which runs are revoked. An error means that it isn't known now;
// Authenticate then refuses.
type Revoked interface {
	Revoked(a v1alpha1.Agent) (reason string, revoked bool, err error)
}

// Bindings puts in force what a run may do.
type Bindings interface {
	// Ensure returns nil once everything in access is bound to a's run until at
	// least until, and the API server's authorizer knows it. An error refuses the
	// token. It is called on every authentication, so it must be cheap when
	// nothing is to do.
	Ensure(ctx context.Context, a v1alpha1.Agent, access []v1alpha1.Access, until time.Time) error
}

// Authenticator verifies agents' tokens.
type Authenticator struct {
	issuers  map[string]*issuer // by URL
	revoked  Revoked
	bindings Bindings // nil where no profile is configured
	tokens   *tokens
	metrics  *metrics
	log      *slog.Logger
	tried    chan struct{}
}

// New makes an Authenticator of cfg, which it validates apart from the parts
// that serve (listen, tls). It asks no issuer yet: Run does. bindings may be nil
// only when cfg has no profiles.
func New(cfg Config, limits access.Limits, revoked Revoked, bindings Bindings, log *slog.Logger) (*Authenticator, error) {
	if revoked == nil {
		return nil, errors.New("authn needs to know revocations")
	}
	if bindings == nil && len(cfg.Profiles) > 0 {
		return nil, errors.New("authn needs bindings for its profiles")
	}
	issuers, errs := cfg.compile(field.NewPath("authn"), &limits)
	if len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	a := &Authenticator{
		issuers: map[string]*issuer{}, revoked: revoked, bindings: bindings, tokens: newTokens(maxCached), log: log,
		tried: make(chan struct{}),
	}
	for _, is := range issuers {
		is.log = log
		a.issuers[is.url] = is
	}
	a.metrics = newMetrics(a.issuers)
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
// or a [*RefusedError]; revocation is asked on every call, and what the run may
// do is in force when it returns.
func (a *Authenticator) Authenticate(ctx context.Context, token string) (v1alpha1.Agent, error) {
	v, err := a.authenticate(ctx, token)
	a.metrics.countResult(v, err)
	if err != nil {
		return v1alpha1.Agent{}, err
	}
	return v.agent, nil
}

// authenticate is Authenticate with what else a TokenReview needs.
func (a *Authenticator) authenticate(ctx context.Context, token string) (*verified, error) {
	if !mayBeOurs(token) {
		return nil, ErrNotOurs
	}
	k := keyOfToken(token)
	v := a.tokens.find(k)
	if v != nil {
		a.metrics.hits.Inc()
	} else {
		is := a.issuers[peekIssuer(token)]
		if is == nil {
			return nil, ErrNotOurs
		}
		var err error
		began := time.Now()
		v, err = is.verify(ctx, token, nil)
		a.metrics.verifying.Observe(time.Since(began).Seconds())
		if err != nil {
			return nil, err
		}
		a.tokens.remember(k, v)
	}
	if err := a.admit(ctx, v); err != nil {
		return nil, err
	}
	return v, nil
}

// admit is what is asked on every call, however well the token is known.
func (a *Authenticator) admit(ctx context.Context, v *verified) error {
	reason, revoked, err := a.revoked.Revoked(v.agent)
	switch {
	case err != nil:
		a.log.WarnContext(ctx, "token refused, revocations are not known", "issuer", v.by.name, "run", v.agent.Run, "error", err)
		return v.by.refuse(outcomeUnavailable, v.mapping, errors.New("it could not be checked whether the run is revoked"))
	case revoked:
		return v.by.refuse(outcomeRevoked, v.mapping, fmt.Errorf("run %q is revoked: %s", v.agent.Run, reason))
	}
	if a.bindings != nil {
		if err := a.bindings.Ensure(ctx, v.agent, v.access, v.until); err != nil {
			a.log.WarnContext(ctx, "token refused, what its run may do is not in force", "issuer", v.by.name, "run", v.agent.Run, "error", err)
			return v.by.refuse(outcomeUnavailable, v.mapping, errors.New("what the run may do could not be put in force"))
		}
	}
	a.metrics.runs.seen(v.run, v.until)
	return nil
}

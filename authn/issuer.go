package authn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// Times of an issuer's background work.
const (
	defaultFirstRetry = time.Second
	lastRetry         = 30 * time.Second
	// refreshInterval is how often discovery and keys are read again: a key that
	// the issuer withdrew, or a CA file that changed, counts after that long.
	refreshInterval = 10 * time.Minute
)

// issuer verifies the tokens of one configured issuer.
type issuer struct {
	name, url, caFile     string
	audiences, algorithms []string
	maxAge, skew          time.Duration
	mappings              []*mapping
	now                   func() time.Time
	log                   *slog.Logger

	firstRetry time.Duration

	verifier atomic.Pointer[oidc.IDTokenVerifier] // nil until the issuer first answered
}

// verified is what a token that holds says.
type verified struct {
	agent     v1alpha1.Agent
	audiences []string // of the issuer's configured ones, those the token is for
}

// connect reads the issuer's discovery document and keys. On an error what was
// known before stays in use.
func (is *issuer) connect(ctx context.Context) error {
	// A new fetcher each time reads the CA file again and starts without the old
	// answers; go-oidc keeps it only when the issuer answered.
	f, err := newFetcher(is.caFile, is.now, is.log.With("issuer", is.name))
	if err != nil {
		return err
	}
	client := f.client()
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, client), 2*fetchTimeout)
	defer cancel()
	provider, err := oidc.NewProvider(ctx, is.url)
	if err != nil {
		return fmt.Errorf("discover issuer %s: %w", is.url, err)
	}
	var discovered struct {
		KeySetURL string `json:"jwks_uri"`
	}
	if err := provider.Claims(&discovered); err != nil {
		return fmt.Errorf("read discovery of issuer %s: %w", is.url, err)
	}
	// Fetched here so that it is in the fetcher when go-oidc first needs it.
	if err := fetchKeys(ctx, client, discovered.KeySetURL); err != nil {
		return fmt.Errorf("fetch keys of issuer %s: %w", is.url, err)
	}
	is.verifier.Store(provider.VerifierContext(ctx, &oidc.Config{
		SupportedSigningAlgs: is.algorithms,
		// Several audiences, and times with the configured skew, are checked in verify.
		SkipClientIDCheck: true,
		SkipExpiryCheck:   true,
	}))
	return nil
}

func fetchKeys(ctx context.Context, client *http.Client, url string) error {
	if url == "" {
		return errors.New("discovery names no jwks_uri")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

// run keeps the issuer's keys fresh until ctx ends. It calls tried after each
// attempt.
func (is *issuer) run(ctx context.Context, tried func()) {
	retry, connected := is.firstRetry, false
	for {
		err := is.connect(ctx)
		tried()
		if ctx.Err() != nil {
			return
		}
		wait := refreshInterval
		if err != nil {
			is.log.WarnContext(ctx, "issuer does not answer", "issuer", is.name, "error", err,
				"keysKnown", is.verifier.Load() != nil, "retryIn", retry)
			wait, retry = retry, min(2*retry, lastRetry)
		} else {
			if !connected {
				is.log.InfoContext(ctx, "issuer connected", "issuer", is.name)
			}
			retry = is.firstRetry
		}
		connected = err == nil
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// verify checks token in full and maps it. Errors are *RefusedError.
func (is *issuer) verify(ctx context.Context, token string) (verified, error) {
	verifier := is.verifier.Load()
	if verifier == nil {
		return verified{}, refuse("issuer %q has not answered yet, so its tokens can't be verified", is.name)
	}
	if err := checkHeader(token, is.algorithms); err != nil {
		return verified{}, refuse("issuer %q: %v", is.name, err)
	}
	// go-oidc's errors quote claims, so they go no further.
	t, err := verifier.Verify(ctx, token)
	if err != nil {
		if ctx.Err() != nil {
			return verified{}, refuse("issuer %q: the issuer's keys did not come in time", is.name)
		}
		return verified{}, refuse("issuer %q: signature does not verify with the issuer's keys, or claims are malformed", is.name)
	}
	var payload rawPayload
	if err := t.Claims(&payload); err != nil {
		return verified{}, refuse("issuer %q: claims are malformed", is.name)
	}
	claims, err := decodeObject(payload)
	if err != nil {
		return verified{}, refuse("issuer %q: claims are not one JSON object with distinct names", is.name)
	}
	// go-oidc compared it too, but with names that differ in case.
	if iss, _ := claims["iss"].(string); iss != is.url {
		return verified{}, refuse("issuer %q: token is of another issuer", is.name)
	}
	audiences, err := acceptedAudiences(claims, is.audiences)
	if err != nil {
		return verified{}, refuse("issuer %q: %v", is.name, err)
	}
	if err := checkTimes(claims, is.now(), is.maxAge, is.skew); err != nil {
		return verified{}, refuse("issuer %q: %v", is.name, err)
	}
	credential, err := credentialID(claims)
	if err != nil {
		return verified{}, refuse("issuer %q: %v", is.name, err)
	}
	for i, m := range is.mappings {
		agent, matched, err := m.agent(is.name, claims)
		if err != nil {
			return verified{}, refuse("issuer %q: mappings[%d]: %v", is.name, i, err)
		}
		if matched {
			agent.CredentialID = credential
			return verified{agent: agent, audiences: audiences}, nil
		}
	}
	return verified{}, refuse("issuer %q: no mapping matches the token", is.name)
}

// rawPayload takes a verified payload from go-oidc as it was signed.
type rawPayload []byte

// UnmarshalJSON keeps a copy of b.
func (p *rawPayload) UnmarshalJSON(b []byte) error {
	*p = append((*p)[:0], b...)
	return nil
}

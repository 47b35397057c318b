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
)

// Times of an issuer's background work.
const (
	defaultFirstRetry = time.Second
	lastRetry         = 30 * time.Second
	// refreshInterval is how often discovery and keys are read again: a key that
	// the issuer withdrew, or a CA file that changed, counts after that long.
	refreshInterval = 10 * time.Minute
	// defaultFileInterval is how often a keySetFile is looked at.
	defaultFileInterval = 5 * time.Second
)

// issuer verifies the tokens of one configured issuer.
type issuer struct {
	name, url, caFile, keySetFile string
	audiences, algorithms         []string
	maxAge, skew                  time.Duration
	required                      []requiredClaim
	claimRules, userRules         []*rule
	mappings                      []*mapping
	profiles                      map[string]*profile // of the whole config
	now                           func() time.Time
	log                           *slog.Logger

	firstRetry, fileInterval, fetchTimeout time.Duration

	keys     atomic.Pointer[keySet] // nil until the issuer first answered
	keysRead atomic.Int64           // when it last answered with keys, Unix nanoseconds; 0 is never
}

// keySet is one state of an issuer's keys. Another set of keys is another
// keySet, so what was verified by the one doesn't count for the other.
type keySet struct {
	verifier *oidc.IDTokenVerifier
	remote   *oidc.RemoteKeySet // what verifier asks
	from     *fetcher
	url      string // of the keys
}

// connect reads the issuer's keys: by discovery, or from the file. On an error
// what was known before stays in use.
func (is *issuer) connect(ctx context.Context) error {
	// A new fetcher each time reads the CA file again and starts without the old
	// answers; go-oidc keeps it only when the issuer answered.
	var next http.RoundTripper = fileTransport(is.keySetFile)
	if is.keySetFile == "" {
		t, err := newTransport(is.caFile, is.fetchTimeout)
		if err != nil {
			return err
		}
		next = t
	}
	ctx, cancel := context.WithTimeout(ctx, 2*is.fetchTimeout)
	defer cancel()
	url := keySetFileURL
	if is.keySetFile == "" {
		found, err := is.discover(ctx, is.newFetcher(next))
		if err != nil {
			return err
		}
		url = found
	}
	f := is.newFetcher(next)
	f.read = readKeySet
	f.answered = func(changed bool) {
		is.keysRead.Store(is.now().UnixNano())
		if old := is.keys.Load(); changed && old != nil && old.from == f {
			is.keys.CompareAndSwap(old, is.newKeySet(f, url))
		}
	}
	// Fetched here so that it is in the fetcher when go-oidc first needs it.
	if err := fetchKeys(ctx, f.client(), url); err != nil {
		return fmt.Errorf("fetch keys of issuer %s: %w", is.url, err)
	}
	// The same keys stay as they are, and so do the tokens verified with them.
	if old := is.keys.Load(); old != nil && old.url == url && old.from.lastAnswer() == f.lastAnswer() {
		return nil
	}
	keys := is.newKeySet(f, url)
	keys.warm(ctx)
	is.keys.Store(keys)
	return nil
}

// warmToken is signed by nobody.
const warmToken = "eyJhbGciOiJSUzI1NiIsImtpZCI6Indhcm0ifQ.e30.AA" //nolint:gosec // no credential: its signature is a letter

// warm has go-oidc take the keys that were just fetched, which it does only when
// a token needs one: by then the issuer may hang.
func (k *keySet) warm(ctx context.Context) {
	_, _ = k.remote.VerifySignature(ctx, warmToken) // never holds
}

func (is *issuer) newFetcher(next http.RoundTripper) *fetcher {
	return &fetcher{next: next, timeout: is.fetchTimeout, now: is.now, log: is.log.With("issuer", is.name), docs: map[string]*document{}}
}

func (is *issuer) newKeySet(f *fetcher, url string) *keySet {
	// go-oidc keeps of the context only the client.
	remote := oidc.NewRemoteKeySet(oidc.ClientContext(context.Background(), f.client()), url)
	return &keySet{from: f, url: url, remote: remote, verifier: oidc.NewVerifier(is.url, handingOver{remote}, &oidc.Config{
		SupportedSigningAlgs: is.algorithms,
		// Several audiences, and times with the configured skew, are checked in judge.
		SkipClientIDCheck: true,
		SkipExpiryCheck:   true,
	})}
}

// discover asks the issuer where its keys are.
func (is *issuer) discover(ctx context.Context, f *fetcher) (keysURL string, err error) {
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, f.client()), is.url)
	if err != nil {
		return "", fmt.Errorf("discover issuer %s: %s", is.url, shortened(err))
	}
	var discovered struct {
		KeySetURL string `json:"jwks_uri"`
	}
	if err := provider.Claims(&discovered); err != nil {
		return "", fmt.Errorf("read discovery of issuer %s: %w", is.url, err)
	}
	if discovered.KeySetURL == "" {
		return "", fmt.Errorf("read discovery of issuer %s: it names no jwks_uri", is.url)
	}
	return discovered.KeySetURL, nil
}

// maxErrorBytes bounds what an issuer's answer may put into our log: go-oidc's
// errors quote it.
const maxErrorBytes = 512

func shortened(err error) string {
	if s := err.Error(); len(s) > maxErrorBytes {
		return s[:maxErrorBytes] + "…"
	}
	return err.Error()
}

func fetchKeys(ctx context.Context, client *http.Client, url string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("answered %d", resp.StatusCode)
	}
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
		if is.keySetFile != "" {
			wait = is.fileInterval
		}
		if err != nil {
			is.log.WarnContext(ctx, "issuer does not answer", "issuer", is.name, "error", err,
				"keysKnown", is.keys.Load() != nil, "retryIn", retry)
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

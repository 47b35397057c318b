package issuer

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/zitadel/oidc/v3/pkg/op"
)

// adminPath registers clients. It is no part of OIDC: it stands for whatever
// an agent platform does when it starts a run.
const adminPath = "/admin/clients"

// maxBodyBytes caps a registration. A client and its claims stay under 4 KiB.
const maxBodyBytes = 64 << 10

// DefaultLifetime is how long a token lives if its registration doesn't say.
const DefaultLifetime = 15 * time.Minute

// Provider is a running OIDC provider.
type Provider struct {
	// URL is the issuer: https://host:port.
	URL string
	// AdminSecret allows its holder to register clients.
	AdminSecret string

	srv  *http.Server
	done chan error
}

// Start serves a provider on l, which it then owns, with cert. Tokens are for
// the given audiences.
func Start(l net.Listener, cert tls.Certificate, audiences []string, log *slog.Logger) (*Provider, error) {
	p := &Provider{URL: "https://" + l.Addr().String(), AdminSecret: randomHex(), done: make(chan error, 1)}
	st, err := newStorage(audiences)
	if err != nil {
		return nil, err
	}
	cfg := &op.Config{AuthMethodPost: true, SupportedScopes: []string{"openid"}}
	if _, err := io.ReadFull(rand.Reader, cfg.CryptoKey[:]); err != nil {
		return nil, fmt.Errorf("make the provider's key: %w", err)
	}
	provider, err := op.NewProvider(cfg, st, op.StaticIssuer(p.URL), op.WithLogger(log))
	if err != nil {
		return nil, fmt.Errorf("make the OIDC provider: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+adminPath, p.register(st))
	mux.Handle("/", provider)
	p.srv = &http.Server{
		Handler:           mux,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	go func() { p.done <- p.srv.ServeTLS(l, "", "") }()
	return p, nil
}

// Close stops the provider and waits for it.
func (p *Provider) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if p.srv.Shutdown(ctx) != nil {
		_ = p.srv.Close() // whoever still holds a connection loses it
	}
	if err := <-p.done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the OIDC provider: %w", err)
	}
	return nil
}

// registration asks for a client: the body of a POST to adminPath.
type registration struct {
	Subject         string         `json:"subject"`
	Claims          map[string]any `json:"claims"`
	Audiences       []string       `json:"audiences,omitempty"`
	LifetimeSeconds int64          `json:"lifetimeSeconds,omitempty"`
}

// registered is the answer: the client's credentials.
type registered struct {
	ClientID     string `json:"clientID"`
	ClientSecret string `json:"clientSecret"`
}

func (p *Provider) register(st *storage) http.HandlerFunc {
	want := []byte("Bearer " + p.AdminSecret)
	return func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			http.Error(w, "the admin secret is needed to register a client", http.StatusUnauthorized)
			return
		}
		reg, err := parseRegistration(http.MaxBytesReader(w, r.Body, maxBodyBytes))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		id, secret := st.add(reg)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(registered{ClientID: id, ClientSecret: secret}) // the caller sees a cut answer
	}
}

// parseRegistration reads one registration, strictly.
func parseRegistration(r io.Reader) (registration, error) {
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	var reg registration
	if err := dec.Decode(&reg); err != nil {
		return registration{}, fmt.Errorf("read the registration: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return registration{}, errors.New("read the registration: more than one JSON value")
	}
	if reg.Subject == "" {
		return registration{}, errors.New("read the registration: subject is missing")
	}
	if reg.LifetimeSeconds < 0 || reg.LifetimeSeconds > int64((30*24*time.Hour).Seconds()) {
		return registration{}, errors.New("read the registration: lifetimeSeconds is outside 0 to 30 days")
	}
	return reg, nil
}

func randomHex() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails since Go 1.24
	return hex.EncodeToString(b)
}

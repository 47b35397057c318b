package issuer

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Claims is what a token shall say.
type Claims struct {
	// Subject is the token's sub. Empty means "agent".
	Subject string
	// Private are the other claims: run, model, act, task and what a test likes.
	Private map[string]any
	// Audiences replaces the provider's own.
	Audiences []string
	// Lifetime is how long the token lives. Zero means DefaultLifetime.
	Lifetime time.Duration
}

// Client gets tokens from a running provider, as an agent platform does.
type Client struct {
	// URL is the issuer.
	URL string
	// AdminSecret is the provider's.
	AdminSecret string
	// Roots verify the provider's certificate.
	Roots *x509.CertPool
}

// Mint registers a client with these claims and gets its token at the token
// endpoint that the discovery document names.
func (c *Client) Mint(ctx context.Context, claims Claims) (string, error) {
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12}}
	defer tr.CloseIdleConnections()
	hc := &http.Client{Transport: tr, Timeout: 10 * time.Second}

	if claims.Subject == "" {
		claims.Subject = "agent"
	}
	body, err := json.Marshal(registration{
		Subject: claims.Subject, Claims: claims.Private, Audiences: claims.Audiences,
		LifetimeSeconds: int64(claims.Lifetime / time.Second),
	})
	if err != nil {
		return "", fmt.Errorf("encode the claims: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+adminPath, bytes.NewReader(body))
	if err != nil {
		return "", fmt.Errorf("register a client at %s: %w", c.URL, err)
	}
	req.Header.Set("Authorization", "Bearer "+c.AdminSecret)
	var cred registered
	if err := do(hc, req, &cred); err != nil {
		return "", fmt.Errorf("register a client at %s: %w", c.URL, err)
	}

	var discovery struct {
		TokenEndpoint string `json:"token_endpoint"`
	}
	req, err = http.NewRequestWithContext(ctx, http.MethodGet, c.URL+"/.well-known/openid-configuration", nil)
	if err != nil {
		return "", fmt.Errorf("read the discovery document: %w", err)
	}
	if err := do(hc, req, &discovery); err != nil {
		return "", fmt.Errorf("read the discovery document: %w", err)
	}

	form := url.Values{"grant_type": {"client_credentials"}}
	req, err = http.NewRequestWithContext(ctx, http.MethodPost, discovery.TokenEndpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("ask for a token: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape(cred.ClientID), url.QueryEscape(cred.ClientSecret))
	var token struct {
		AccessToken string `json:"access_token"`
	}
	if err := do(hc, req, &token); err != nil {
		return "", fmt.Errorf("ask for a token: %w", err)
	}
	if token.AccessToken == "" {
		return "", errors.New("ask for a token: the answer holds none")
	}
	return token.AccessToken, nil
}

// do sends req and decodes a 200's JSON body into out.
func do(hc *http.Client, req *http.Request, out any) error {
	resp, err := hc.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end below
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %.200s", resp.Status, strings.TrimSpace(string(b)))
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("decode the answer: %w", err)
	}
	return nil
}

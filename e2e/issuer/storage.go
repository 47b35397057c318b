package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// errOnlyClientCredentials answers every flow but the one that agents use.
var errOnlyClientCredentials = errors.New("this provider knows the client-credentials grant only")

// storage is what op asks: clients in memory and one signing key.
type storage struct {
	key       *ecdsa.PrivateKey
	keyID     string
	audiences []string

	mu      sync.Mutex
	clients map[string]*client
}

var (
	_ op.Storage                  = (*storage)(nil)
	_ op.ClientCredentialsStorage = (*storage)(nil)
)

func newStorage(audiences []string) (*storage, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the signing key: %w", err)
	}
	return &storage{key: key, keyID: randomHex(), audiences: audiences, clients: map[string]*client{}}, nil
}

// add registers a client for one run and returns its credentials.
func (s *storage) add(reg registration) (id, secret string) {
	c := &client{id: randomHex(), secret: randomHex(), reg: reg}
	if len(c.reg.Audiences) == 0 {
		c.reg.Audiences = s.audiences
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[c.id] = c
	return c.id, c.secret
}

func (s *storage) client(id string) (*client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.clients[id]; ok {
		return c, nil
	}
	return nil, errors.New("no such client")
}

// ClientCredentials authenticates a client by its secret.
func (s *storage) ClientCredentials(_ context.Context, id, secret string) (op.Client, error) {
	c, err := s.client(id)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(c.secret), []byte(secret)) != 1 {
		return nil, errors.New("wrong client secret")
	}
	return c, nil
}

// ClientCredentialsTokenRequest says what the client's token will hold.
func (s *storage) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	c, err := s.client(id)
	if err != nil {
		return nil, err
	}
	return &tokenRequest{client: c, scopes: scopes}, nil
}

// CreateAccessToken names a new token and says when it ends.
func (s *storage) CreateAccessToken(_ context.Context, r op.TokenRequest) (string, time.Time, error) {
	tr, ok := r.(*tokenRequest)
	if !ok {
		return "", time.Time{}, errOnlyClientCredentials
	}
	lifetime := time.Duration(tr.client.reg.LifetimeSeconds) * time.Second
	if lifetime == 0 {
		lifetime = DefaultLifetime
	}
	return randomHex(), time.Now().Add(lifetime), nil
}

// GetPrivateClaimsFromScopes gives the run's claims. op lets registered claims
// (iss, sub, aud, exp, …) win over them.
func (s *storage) GetPrivateClaimsFromScopes(_ context.Context, _, id string, _ []string) (map[string]any, error) {
	c, err := s.client(id)
	if err != nil {
		return nil, err
	}
	return c.reg.Claims, nil
}

func (s *storage) SigningKey(context.Context) (op.SigningKey, error) { return signingKey{s}, nil }
func (s *storage) KeySet(context.Context) ([]op.Key, error)          { return []op.Key{publicKey{s}}, nil }
func (s *storage) Health(context.Context) error                      { return nil }

func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.ES256}, nil
}

func (s *storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	c, err := s.client(id)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (s *storage) AuthorizeClientIDSecret(ctx context.Context, id, secret string) error {
	_, err := s.ClientCredentials(ctx, id, secret)
	return err
}

// The rest of op.Storage serves flows that this provider refuses.

func (s *storage) CreateAuthRequest(context.Context, *oidc.AuthRequest, string) (op.AuthRequest, error) {
	return nil, errOnlyClientCredentials
}

func (s *storage) AuthRequestByID(context.Context, string) (op.AuthRequest, error) {
	return nil, errOnlyClientCredentials
}

func (s *storage) AuthRequestByCode(context.Context, string) (op.AuthRequest, error) {
	return nil, errOnlyClientCredentials
}

func (s *storage) SaveAuthCode(context.Context, string, string) error {
	return errOnlyClientCredentials
}
func (s *storage) DeleteAuthRequest(context.Context, string) error { return errOnlyClientCredentials }

func (s *storage) CreateAccessAndRefreshTokens(context.Context, op.TokenRequest, string) (string, string, time.Time, error) {
	return "", "", time.Time{}, errOnlyClientCredentials
}

func (s *storage) TokenRequestByRefreshToken(context.Context, string) (op.RefreshTokenRequest, error) {
	return nil, errOnlyClientCredentials
}

func (s *storage) TerminateSession(context.Context, string, string) error {
	return errOnlyClientCredentials
}

func (s *storage) RevokeToken(context.Context, string, string, string) *oidc.Error {
	return oidc.ErrInvalidRequest().WithDescription("tokens of this provider can't be revoked")
}

func (s *storage) GetRefreshTokenInfo(context.Context, string, string) (string, string, error) {
	return "", "", op.ErrInvalidRefreshToken
}

func (s *storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return errOnlyClientCredentials
}

func (s *storage) SetUserinfoFromToken(context.Context, *oidc.UserInfo, string, string, string) error {
	return errOnlyClientCredentials
}

func (s *storage) SetIntrospectionFromToken(context.Context, *oidc.IntrospectionResponse, string, string, string) error {
	return errOnlyClientCredentials
}

func (s *storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errOnlyClientCredentials
}

func (s *storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, errOnlyClientCredentials
}

type tokenRequest struct {
	client *client
	scopes []string
}

func (r *tokenRequest) GetSubject() string    { return r.client.reg.Subject }
func (r *tokenRequest) GetAudience() []string { return r.client.reg.Audiences }
func (r *tokenRequest) GetScopes() []string   { return r.scopes }

type signingKey struct{ s *storage }

func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (k signingKey) Key() any                                    { return k.s.key }
func (k signingKey) ID() string                                  { return k.s.keyID }

type publicKey struct{ s *storage }

func (k publicKey) ID() string                         { return k.s.keyID }
func (k publicKey) Algorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (k publicKey) Use() string                        { return "sig" }
func (k publicKey) Key() any                           { return &k.s.key.PublicKey }

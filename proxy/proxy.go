package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/mask"
)

// Authenticator says which agent's run a token belongs to. Any error refuses
// the request; revocation is asked on every call.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (v1alpha1.Agent, error)
}

// Proxy is the read proxy.
type Proxy struct {
	upstream  *url.URL
	transport http.RoundTripper
	auth      Authenticator
	masker    *mask.Masker
	resolver  request.RequestInfoResolver
	log       *slog.Logger
}

// New gives a proxy to the API server that upstream reaches, with upstream's
// own identity as the one that impersonates.
func New(_ Config, upstream *rest.Config, auth Authenticator, masker *mask.Masker, log *slog.Logger) (*Proxy, error) {
	base, _, err := rest.DefaultServerUrlFor(upstream)
	if err != nil {
		return nil, fmt.Errorf("proxy: the API server's address: %w", err)
	}
	rt, err := rest.TransportFor(upstream)
	if err != nil {
		return nil, fmt.Errorf("proxy: connection to the API server: %w", err)
	}
	return &Proxy{
		upstream: base, transport: rt, auth: auth, masker: masker, log: log,
		resolver: &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")},
	}, nil
}

// Handler answers agents.
func (p *Proxy) Handler() http.Handler { return http.HandlerFunc(p.serve) }

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	if err := checkPath(r.URL); err != nil {
		writeStatus(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	agent, err := p.authenticate(r)
	if err != nil {
		p.log.InfoContext(r.Context(), "token refused", "reason", err.Error())
		writeStatus(w, apierrors.NewUnauthorized("the proxy takes a bearer token of a configured issuer: "+err.Error()))
		return
	}
	info, err := p.resolver.NewRequestInfo(r)
	if err != nil {
		writeStatus(w, apierrors.NewBadRequest("the path names no Kubernetes request"))
		return
	}
	if status := offered(r, info); status != nil {
		writeStatus(w, status)
		return
	}
	plain := passesPlain(info)
	accept := r.Header.Get("Accept")
	if !plain {
		narrowed, ok := narrowAccept(r.Header.Values("Accept"))
		if !ok {
			writeStatus(w, notAcceptable())
			return
		}
		accept = narrowed
	}
	if status := checkBody(w, r); status != nil {
		writeStatus(w, status)
		return
	}

	scoped := p.masker.Scope(agent.Key())
	rp := httputil.ReverseProxy{
		Transport: transport.NewImpersonatingRoundTripper(impersonation(agent), p.transport),
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(p.upstream)
			cleanHeaders(pr.Out.Header)
			pr.SetXForwarded()
			// Go would otherwise ask for gzip and leave us bytes to unpack.
			pr.Out.Header.Set("Accept-Encoding", "identity")
			if accept != "" {
				pr.Out.Header.Set("Accept", accept)
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			if plain {
				return nil
			}
			return p.maskAnswer(resp, scoped, info)
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if errors.Is(err, context.Canceled) {
				return // the client went away
			}
			p.log.WarnContext(r.Context(), "no answer from the API server", "error", err)
			if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
				writeStatus(w, apierrors.NewTimeoutError("the API server did not answer the proxy in time: what was asked may or may not have been done", 1))
				return
			}
			writeStatus(w, apierrors.NewServiceUnavailable("the proxy can't get an answer from the API server: try again"))
		},
		ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	rp.ServeHTTP(w, r)
}

func (p *Proxy) authenticate(r *http.Request) (v1alpha1.Agent, error) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return v1alpha1.Agent{}, errors.New("exactly one Authorization header is needed")
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	token = strings.TrimSpace(token)
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return v1alpha1.Agent{}, errors.New("no bearer token")
	}
	agent, err := p.auth.Authenticate(r.Context(), token)
	if err != nil {
		return v1alpha1.Agent{}, err
	}
	if !strings.HasPrefix(agent.User, v1alpha1.UserPrefix) || agent.Run == "" {
		// A bug of ours: nothing else may ever be impersonated.
		return v1alpha1.Agent{}, errors.New("the token stands for no agent's run")
	}
	return agent, nil
}

// impersonation is the agent, as the API server shall see it.
func impersonation(a v1alpha1.Agent) transport.ImpersonationConfig {
	return transport.ImpersonationConfig{
		UserName: a.User,
		Groups:   append(a.Groups(), v1alpha1.GroupProxied),
		Extra:    a.Extra(),
	}
}

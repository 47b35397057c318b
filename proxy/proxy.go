package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
	"k8s.io/utils/lru"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/httpserve"
	"github.com/tipstaff-dev/tipstaff/mask"
)

// Authenticator says which agent's run a token belongs to. Any error refuses
// the request.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (v1alpha1.Agent, error)
}

// Proxy is the read proxy.
type Proxy struct {
	upstream *url.URL
	streams  http.RoundTripper // HTTP/2, where the API server speaks it: for watches and logs
	answers  http.RoundTripper // HTTP/1.1: for the rest, and for upgrades
	auth     Authenticator
	revoked  Revoked
	running  running
	holds    *holds
	masker   *mask.Masker
	sessions Sessions // nil where nothing can be recorded
	// unrecorded says that sessions pass without being recorded.
	unrecorded bool
	identities *lru.Cache // the headers of agents
	audit      *auditor   // nil where the proxy writes no events of its own
	lostLogged atomic.Int64
	metrics    *proxyMetrics
	lastCall   time.Duration
	storeTries wait.Backoff
	resolver   request.RequestInfoResolver
	log        *slog.Logger
}

// New gives a proxy to the API server that upstream reaches, with upstream's
// own identity as the one that impersonates. It stays subscribed to revoked for
// as long as the process runs.
func New(cfg Config, upstream *rest.Config, auth Authenticator, revoked Revoked, masker *mask.Masker, log *slog.Logger) (*Proxy, error) {
	if revoked == nil {
		return nil, errors.New("proxy: who is revoked must be known")
	}
	base, _, err := rest.DefaultServerUrlFor(upstream)
	if err != nil {
		return nil, fmt.Errorf("proxy: the API server's address: %w", err)
	}
	streams, err := rest.TransportFor(upstream)
	if err != nil {
		return nil, fmt.Errorf("proxy: connection to the API server: %w", err)
	}
	answers, err := manyConnections(upstream)
	if err != nil {
		return nil, fmt.Errorf("proxy: connection to the API server: %w", err)
	}
	p := &Proxy{
		upstream: base, streams: streams, answers: answers, auth: auth, revoked: revoked, holds: newHolds(cfg.holdTimeout(), log), masker: masker, log: log, unrecorded: cfg.Sessions.unrecorded(), metrics: newProxyMetrics(),
		identities: lru.New(identities), running: running{left: make(chan struct{}, 1)}, lastCall: lastCall, storeTries: storeTries,
		resolver: &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")},
	}
	revoked.Subscribe(p.sweep)
	return p, nil
}

// idleConnections is how many connections to the API server are kept for the
// next answers. client-go keeps 25, and what is beyond is opened and closed again.
const idleConnections = 512

// answersWithin is longer than the API server takes to answer what is no stream:
// a minute (--request-timeout).
const answersWithin = 2 * time.Minute

// manyConnections gives a transport by which each answer has a connection of its
// own. Long ones come in much less time so than over HTTP/2, which has them wait
// for their turn frame by frame.
func manyConnections(upstream *rest.Config) (http.RoundTripper, error) {
	one := rest.CopyConfig(upstream)
	one.NextProtos = []string{"http/1.1"}
	if one.Dial == nil {
		// One of our own, as client-go's is: a transport that nobody else uses.
		// Nothing else tells here, as HTTP/2's pings do, that the other end is gone.
		one.Dial = (&net.Dialer{Timeout: 30 * time.Second, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second, Count: 3}}).DialContext
	}
	one.Dial = readingAhead(one.Dial)
	rt, err := rest.TransportFor(one)
	if err != nil {
		return nil, err
	}
	for inner := rt; ; {
		switch t := inner.(type) {
		case *http.Transport:
			t.MaxIdleConnsPerHost = idleConnections
			t.IdleConnTimeout = time.Minute         // the API server's own is longer: it closes none that is being used again
			t.ResponseHeaderTimeout = answersWithin // and where its host is gone, that ends the wait
			return rt, nil
		case utilnet.RoundTripperWrapper:
			inner = t.WrappedRoundTripper()
		default: // a transport that a test has given
			return rt, nil
		}
	}
}

// Handler answers agents.
func (p *Proxy) Handler() http.Handler { return http.HandlerFunc(p.serve) }

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	if err := checkPath(r.URL); err != nil {
		writeStatus(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		writeStatus(w, &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed,
			Message: "the API server knows no such method",
		}})
		return
	}
	agent, err := p.authenticate(r)
	if err != nil {
		p.log.InfoContext(r.Context(), "token refused", "reason", err.Error())
		writeStatus(w, apierrors.NewUnauthorized("the proxy takes a bearer token of a configured issuer: "+err.Error()))
		return
	}
	identity, err := impersonation(agent)
	if err != nil {
		// A bug of ours: nothing else may ever be impersonated.
		p.log.ErrorContext(r.Context(), "identity refused", "reason", err.Error())
		writeStatus(w, apierrors.NewUnauthorized("the token stands for no agent's run"))
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	under := p.running.enter(agent, w, cancel)
	defer p.running.leave(under)
	// Asked again now that a revocation ends this request too: one that came
	// after the token was looked at and before this line is seen here, every
	// later one by sweep.
	if why := p.refusal(agent); why != nil {
		writeStatus(w, why)
		return
	}
	r = r.WithContext(ctx)

	info, err := p.resolver.NewRequestInfo(r)
	if err != nil {
		writeStatus(w, apierrors.NewBadRequest("the path names no Kubernetes request"))
		return
	}
	// Every try of the request has an audit id of ours: what is kept here joins
	// with what the API server keeps.
	q := &asked{agent: agent, identity: identity, info: info, under: under, id: string(uuid.NewUUID())}
	if p.audit == nil {
		p.pass(w, r, q)
		return
	}
	p.audited(w, r, q, func(w http.ResponseWriter, r *http.Request) { p.pass(w, r, q) })
}

// asked is a request of somebody who is known.
type asked struct {
	agent    v1alpha1.Agent
	identity transport.ImpersonationConfig
	info     *request.RequestInfo
	under    *exchange
	id       string // the audit id of its first try
}

// pass answers a request as the API server does, with what is masked.
func (p *Proxy) pass(w http.ResponseWriter, r *http.Request, q *asked) {
	ctx, agent, info := r.Context(), q.agent, q.info
	if status := offered(info); status != nil {
		writeStatus(w, status)
		return
	}
	up, status := upgrading(r, info)
	if status != nil {
		writeStatus(w, status)
		return
	}
	plain, log := passesPlain(info), logs(info)
	accept, protobuf := r.Header.Get("Accept"), false
	if !plain && !log && up == nil {
		narrowed, ok := narrowAccept(r.Header.Values("Accept"))
		if !ok && info.Verb != "watch" {
			narrowed, protobuf = protobufOnly(r.Header.Values("Accept"))
			ok = protobuf
		}
		if !ok {
			writeStatus(w, notAcceptable())
			return
		}
		accept = narrowed
	}
	zip, encoding := !protobuf && takesGzip(r.Header), "identity"
	switch {
	case r.Method != http.MethodGet || log || up != nil || info.Verb == "watch":
	case plain && !zip:
	case strings.Contains(accept, "as=Table"):
		// A table is made as a whole before its first byte goes out: what packing it
		// takes would come on top.
	default:
		encoding = "gzip"
	}
	wait, status := p.holds.asked(r.Header)
	if status != nil {
		writeStatus(w, status)
		return
	}
	scoped := p.masker.Scope(agent.Key()).Opening()
	asAgent := &impersonating{p.identityHeaders(agent, q.identity), p.answers}
	send := asAgent
	if log || info.Verb == "watch" {
		send = &impersonating{asAgent.headers, p.streams}
	}
	query := r.URL.Query()
	if status := p.selectors(info, query); status != nil {
		writeStatus(w, status)
		return
	}
	if status := checkBody(w, r, &change{info, query, scoped, p.audit != nil, func(ctx context.Context) ([]byte, *apierrors.StatusError) {
		return p.get(ctx, asAgent, info.Path)
	}}); status != nil {
		writeStatus(w, status)
		return
	}
	if len(query["dryRun"]) > 0 {
		scoped = scoped.Unlinked() // what was tried only shows no guess to be right
	}
	rp := httputil.ReverseProxy{
		BufferPool: copies{},
		// What waits for more is passed on after that; a watch's events at once.
		FlushInterval: 5 * time.Millisecond,
		Transport: &holdTransport{
			next: send, holds: p.holds, agent: agent, most: wait, id: q.id,
			again: func() error { return p.stillIs(r, agent) },
		},
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(p.upstream)
			cleanHeaders(pr.Out.Header)
			pr.Out.Trailer = nil // over HTTP/2 they would go along
			if up != nil {
				up.prepare(pr.Out.Header)
			}
			pr.SetXForwarded()
			pr.Out.Header.Set(auditID, q.id)
			// Go would otherwise ask for gzip by itself.
			pr.Out.Header.Set("Accept-Encoding", encoding)
			if accept != "" {
				pr.Out.Header.Set("Accept", accept)
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			maskWarnings(resp.Header, scoped)
			if up != nil && resp.StatusCode != http.StatusSwitchingProtocols {
				up.refused = fmt.Sprintf("not begun: the API server answered %d", resp.StatusCode)
			}
			if plain {
				resp.Body = &cutBody{untilCut{resp.Request.Context(), resp.Body}, resp.Body}
				return nil
			}
			if up != nil && resp.StatusCode == http.StatusSwitchingProtocols {
				return up.switched(resp, scoped)
			}
			if err := p.maskAnswer(resp, scoped, info, zip); err != nil || !protobuf {
				return err
			}
			return p.transcode(resp)
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if c := cutOf(r.Context()); c != nil {
				writeStatus(w, c.status)
				return
			}
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
	if up == nil {
		w, sent := httpserve.Gather(w, r)
		defer sent()
		rp.ServeHTTP(w, r)
		return
	}
	up.cut = q.under.cut
	if up.commands {
		if up.tape, status = p.begin(r, q, scoped); status != nil {
			p.metrics.sessions.WithLabelValues("refused").Inc()
			writeStatus(w, status)
			return
		}
		defer func() {
			if err := up.end(ctx); err != nil {
				p.metrics.sessions.WithLabelValues("failed").Inc()
				p.log.WarnContext(ctx, "a session isn't recorded to its end", "session", q.id, "error", err)
				return
			}
			p.metrics.sessions.WithLabelValues("ended").Inc()
		}()
	}
	defer up.close() // before it is waited for
	rp.ServeHTTP(hijackable{w, q.under}, r)
}

// auditID is the header by which a request's audit id can be given (apiserver,
// endpoints/filters/audit_init.go).
const auditID = "Audit-Id"

// copies lends the buffers that answers are copied through.
type copies struct{}

var copyPool = sync.Pool{New: func() any { return new([bufferBytes]byte) }}

// Get lends a buffer.
func (copies) Get() []byte { return copyPool.Get().(*[bufferBytes]byte)[:] } //nolint:forcetypeassert // the pool holds nothing else

// Put takes it back.
func (copies) Put(b []byte) { copyPool.Put((*[bufferBytes]byte)(b)) }

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
	return p.auth.Authenticate(r.Context(), token)
}

// stillIs is nil where the request's token stands for agent now too.
func (p *Proxy) stillIs(r *http.Request, agent v1alpha1.Agent) error {
	now, err := p.authenticate(r)
	if err == nil && now != agent {
		err = errors.New("it stands for somebody else by now")
	}
	return err
}

// impersonating sends requests as an agent, whatever their headers say.
type impersonating struct {
	headers http.Header
	next    http.RoundTripper
}

// RoundTrip sends req with the headers.
func (i *impersonating) RoundTrip(req *http.Request) (*http.Response, error) {
	as := *req
	as.Header = make(http.Header, len(req.Header)+len(i.headers))
	maps.Copy(as.Header, req.Header)
	maps.Copy(as.Header, i.headers)
	return i.next.RoundTrip(&as)
}

// identities bounds for how many agents the headers are kept.
const identities = 4096

// identityHeaders are those by which client-go impersonates.
func (p *Proxy) identityHeaders(agent v1alpha1.Agent, identity transport.ImpersonationConfig) http.Header {
	if h, ok := p.identities.Get(agent); ok {
		return h.(http.Header) //nolint:forcetypeassert // nothing else is in it
	}
	var h http.Header
	learn := transport.NewImpersonatingRoundTripper(identity, tripper(func(req *http.Request) (*http.Response, error) {
		h = req.Header
		return nil, errors.New("it goes nowhere")
	}))
	_, _ = learn.RoundTrip(&http.Request{Header: http.Header{}}) //nolint:bodyclose // it goes nowhere
	p.identities.Add(agent, h)
	return h
}

type tripper func(*http.Request) (*http.Response, error)

// RoundTrip calls the function.
func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// impersonation is the agent, as the API server shall see it. An error means
// that it can't be said, or not so that it stands for this agent's run alone.
func impersonation(a v1alpha1.Agent) (transport.ImpersonationConfig, error) {
	none := transport.ImpersonationConfig{}
	// Only the first part of a name up to its colon is the issuer.
	if a.Issuer == "" || strings.Contains(a.Issuer, ":") || !strings.HasPrefix(a.User, v1alpha1.UserPrefix+a.Issuer+":") {
		return none, errors.New("the username is no agent's")
	}
	if a.Run == "" {
		return none, errors.New("it has no run")
	}
	own := a.Groups()
	for _, g := range own {
		if g == v1alpha1.GroupProxied || strings.HasPrefix(g, v1alpha1.GroupProxied+":") || strings.HasPrefix(g, v1alpha1.GroupBindingPrefix) {
			return none, errors.New("it has a group that no token yields")
		}
	}
	c := transport.ImpersonationConfig{UserName: a.User, Groups: append(own, a.ProxiedGroups()...), Extra: a.Extra()}
	values := append([]string{c.UserName}, c.Groups...)
	for _, vs := range c.Extra {
		values = append(values, vs...)
	}
	for _, v := range values {
		// A header's outer white space is cut (RFC 9110 section 5.5), and a line
		// break in it refused only at the transport.
		if v != strings.TrimSpace(v) || strings.ContainsFunc(v, unicode.IsControl) {
			return none, errors.New("a header can't carry it unchanged")
		}
	}
	return c, nil
}

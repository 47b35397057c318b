package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/healthz"

	"github.com/tipstaff-dev/tipstaff/approvals"
	"github.com/tipstaff-dev/tipstaff/authn"
	"github.com/tipstaff-dev/tipstaff/authn/bindings"
	"github.com/tipstaff-dev/tipstaff/ingest"
	"github.com/tipstaff-dev/tipstaff/internal/chdb"
	"github.com/tipstaff-dev/tipstaff/internal/httpserve"
	"github.com/tipstaff-dev/tipstaff/proxy"
	"github.com/tipstaff-dev/tipstaff/webhook"
)

// bodyTimeout bounds how long a webhook caller may take to send its request.
// The API server gives a webhook at most 30 s in all.
const bodyTimeout = 30 * time.Second

var allRoles = []string{"authn", "webhook", "proxy", "ingest", "clickhouse"}

func serveCommand(o *options) *cobra.Command {
	var roles []string
	var logLevel string
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run the roles that the configuration has sections for",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var level slog.Level
			if err := level.UnmarshalText([]byte(logLevel)); err != nil {
				return fmt.Errorf("--log-level %s: one of debug, info, warn, error", logLevel)
			}
			cfg, err := o.loadConfig()
			if err != nil {
				return err
			}
			if err := cfg.keep(roles); err != nil {
				return err
			}
			log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			setLibraryLogs(log)
			httpserve.RelaxGC()
			return serve(cmd.Context(), cfg, log)
		},
	}
	cmd.Flags().StringSliceVar(&roles, "roles", nil, "run only these of "+strings.Join(allRoles, ", ")+" (default: every one that the config has)")
	cmd.Flags().StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// keep drops the sections of roles that are not asked for.
func (c *Config) keep(roles []string) error {
	c.guarded = c.Webhook != nil
	if len(roles) == 0 {
		return nil
	}
	has := map[string]bool{
		"authn": c.Authn != nil && c.Authn.Listen != "", "webhook": c.Webhook != nil, "proxy": c.Proxy != nil, "ingest": c.Ingest != nil,
		"clickhouse": c.ClickHouse != nil && c.ClickHouse.Embedded != nil,
	}
	for _, r := range roles {
		if !slices.Contains(allRoles, r) {
			return fmt.Errorf("--roles %s: one of %s", r, strings.Join(allRoles, ", "))
		}
		if !has[r] {
			return fmt.Errorf("--roles %s: the config has no section for it, or authn no listen", r)
		}
	}
	on := func(r string) bool { return slices.Contains(roles, r) }
	if !on("webhook") {
		c.Webhook = nil
	}
	if !on("ingest") {
		c.Ingest = nil
	}
	if !on("authn") && c.Authn != nil {
		c.Authn.Listen = "" // the proxy may still need its issuers
		if !on("proxy") {
			c.Authn = nil
		}
	}
	if !on("proxy") {
		c.Proxy = nil
	}
	if !on("clickhouse") && c.ClickHouse != nil {
		c.ClickHouse.Embedded = nil
	}
	return nil
}

// process is everything that one tipstaff runs.
type process struct {
	servers []*httpserve.Server
	work    map[string]func(context.Context) error
	ready   map[string]healthz.Checker
	// afterServers ends when all of the above has, storage when all else has:
	// what ends there has last words to be kept.
	afterServers, storage map[string]func(context.Context) error
}

func serve(ctx context.Context, cfg *Config, log *slog.Logger) error {
	p, err := cfg.build(log)
	if err != nil {
		return err
	}
	// Every port is taken before anything starts, so that one in use starts nothing.
	listeners := make([]net.Listener, 0, len(p.servers))
	for _, s := range p.servers {
		l, err := s.Bind(ctx)
		if err != nil {
			for _, l := range listeners {
				_ = l.Close() // nothing was accepted
			}
			return err
		}
		listeners = append(listeners, l)
	}
	g, ctx := errgroup.WithContext(ctx)
	// Each phase ends once all of the one before it has.
	begin := func(ctx context.Context, all map[string]func(context.Context) error) (next context.Context) {
		next, stop := context.WithCancel(context.WithoutCancel(ctx))
		var running sync.WaitGroup
		for name, work := range all {
			running.Add(1)
			g.Go(func() error {
				defer running.Done()
				if err := work(ctx); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				return nil
			})
		}
		g.Go(func() error {
			<-ctx.Done()
			running.Wait()
			stop()
			return nil
		})
		return next
	}
	for i, s := range p.servers {
		p.work["server "+s.Name] = func(ctx context.Context) error { return s.Serve(ctx, listeners[i]) }
	}
	if cfg.Health.Listen != "" {
		p.work["health"] = func(ctx context.Context) error { return p.serveHealth(ctx, cfg.Health.Listen) }
	}
	begin(begin(begin(ctx, p.work), p.afterServers), p.storage)
	return g.Wait()
}

// build makes every role that cfg has a section for, and joins them.
func (c *Config) build(log *slog.Logger) (*process, error) {
	p := &process{
		work: map[string]func(context.Context) error{}, ready: map[string]healthz.Checker{},
		afterServers: map[string]func(context.Context) error{}, storage: map[string]func(context.Context) error{},
	}
	key, err := c.maskKey()
	if err != nil {
		return nil, err
	}
	masker, err := c.Masking.New(key)
	if err != nil {
		return nil, err
	}
	if c.ClickHouse != nil && c.ClickHouse.Embedded != nil {
		if err := c.buildClickHouse(p, log); err != nil {
			return nil, err
		}
	}
	var in *ingest.Ingest
	if c.Ingest != nil {
		in, err = ingest.New(*c.Ingest, &c.ClusterAgents, masker, c.ClickHouse.ClickHouse, log)
		if err != nil {
			return nil, err
		}
		if err := register("ingest", in.Collectors()); err != nil {
			return nil, err
		}
		p.storage["ingest"] = in.Run
		p.ready["ingest"] = func(*http.Request) error { return in.Ready() }
		p.serve("ingest", c.Ingest.Listen, c.Ingest.TLS, in.Handler(), log)
	}
	if c.Authn == nil && c.Webhook == nil && c.Proxy == nil {
		return p, nil
	}

	kube, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reach the API server: %w", err)
	}
	kube.UserAgent = "tipstaff/" + version
	revoked, err := authn.NewRevocations(rest.CopyConfig(kube), log)
	if err != nil {
		return nil, err
	}
	if err := register("revocations", revoked.Collectors()); err != nil {
		return nil, err
	}
	p.work["revocations"] = revoked.Run
	p.ready["revocations"] = synced(revoked.HasSynced)

	var auth *authn.Authenticator
	if c.Authn != nil {
		bound, err := c.buildBindings(p, kube, revoked, log)
		if err != nil {
			return nil, err
		}
		auth, err = authn.New(*c.Authn, c.Access, revoked, bound, log)
		if err != nil {
			return nil, err
		}
		if err := register("authn", auth.Collectors()); err != nil {
			return nil, err
		}
		p.work["authn"] = auth.Run
		p.ready["authn"] = closed(auth.Tried(), "the issuers were not all asked yet")
		if c.Authn.Listen != "" {
			p.serve("authn", c.Authn.Listen, c.Authn.TLS, auth.Handler(), log)
		} else {
			log.Info("no TokenReviews are served here: the issuers are the proxy's")
		}
	}
	var decided proxy.Approvals // stays nil where this process keeps no approvals
	if c.Webhook != nil {
		store, err := approvals.NewStore(rest.CopyConfig(kube), c.Approvals, revoked, approvals.Bounds{Agents: &c.ClusterAgents, Access: &c.Access}, log)
		if err != nil {
			return nil, err
		}
		rules, err := webhook.RulesOf(*c.Webhook)
		if err != nil {
			return nil, err
		}
		decided = store
		store.MayBreakGlass(breakGlassRules(rules)...)
		changes, err := webhook.New(*c.Webhook, store, revoked, &c.ClusterAgents, &c.Access, masker, log)
		if err != nil {
			return nil, err
		}
		asked, err := changes.Connect(rest.CopyConfig(kube))
		if err != nil {
			return nil, err
		}
		if asked != nil {
			p.work["rules"] = asked.Run
			p.ready["rules"] = synced(asked.HasSynced)
		}
		if err := register("approvals", store.Collectors()); err != nil {
			return nil, err
		}
		if err := register("webhook", changes.Collectors()); err != nil {
			return nil, err
		}
		mux := http.NewServeMux()
		mux.Handle("/changes", changes.Handler())
		mux.Handle("/guard", store.Guard())
		p.work["approvals"] = store.Run
		if in != nil && c.onlyOwnEvents() {
			in.OnOutcome(func(o ingest.Outcome) bool { return store.Report(o.Approval, o.Use, o.Code, o.Message) })
			p.work["outcomes"] = store.RunReports
		}
		p.ready["approvals"] = synced(store.HasSynced)
		p.serve("webhook", c.Webhook.Listen, c.Webhook.TLS, mux, log)
	}
	if c.Proxy != nil {
		px, err := proxy.New(*c.Proxy, rest.CopyConfig(kube), auth, revoked, masker, log)
		if err != nil {
			return nil, err
		}
		px.Follow(decided)
		if err := c.keepRecords(p, px, in); err != nil {
			return nil, err
		}
		if err := register("proxy", px.Collectors()); err != nil {
			return nil, err
		}
		p.work["proxy"] = px.Run
		p.servers = append(p.servers, &httpserve.Server{
			Name: "proxy", Listen: c.Proxy.Listen, TLS: c.Proxy.TLS, HTTP2: true, Handler: px.Handler(), Log: log,
		})
	}
	return p, nil
}

// records keeps what the proxy records itself.
type records interface {
	proxy.Sessions
	proxy.Events
}

// keepRecords says where px keeps its records: with the ingest role that its
// section names, else with the one of this process. Where there is neither,
// sessions are refused unless the section says that they pass unrecorded.
func (c *Config) keepRecords(p *process, px *proxy.Proxy, in *ingest.Ingest) error {
	var to records
	var err error
	switch {
	case c.Proxy.Records != nil:
		to, err = proxy.NewRemote(*c.Proxy.Records, c.Cluster)
	case in != nil:
		to, err = in.RecordsOf(c.Cluster)
	case c.Proxy.Audit != nil:
		return errors.New("proxy.audit: this process runs no ingest role: name one elsewhere in proxy.records")
	default:
		return nil
	}
	if err != nil {
		return err
	}
	px.RecordWith(to)
	if c.Proxy.Audit != nil {
		px.AuditWith(to, c.Proxy.Audit.Mode)
		p.afterServers["proxy audit"] = px.RunAudit
	}
	return nil
}

// breakGlassRules are those that name who may break the glass.
func breakGlassRules(rules []webhook.Rule) []string {
	var names []string
	for _, r := range rules {
		if len(r.BreakGlass) > 0 {
			names = append(names, r.Name)
		}
	}
	return names
}

// onlyOwnEvents reports whether each audit event that ingest takes is this
// cluster's. Only then do events say how an approved request ended, since that
// may let it through again: where other clusters' API servers may post as well,
// nothing but the path says whose an event is, and one of them must not reopen
// an approval of ours. Approvals are then retried by what admission sees alone.
func (c *Config) onlyOwnEvents() bool {
	return slices.Equal(c.Ingest.Clusters, []string{c.Cluster})
}

// buildBindings makes what binds runs' roles and grants. A config that allows no
// cluster role needs it too: it removes what an earlier one allowed.
func (c *Config) buildBindings(p *process, kube *rest.Config, revoked *authn.Revocations, log *slog.Logger) (authn.Bindings, error) {
	b, err := bindings.New(rest.CopyConfig(kube), c.Access, &c.ClusterAgents, revoked, log)
	if err != nil {
		return nil, err
	}
	b.Mask(c.Masking.Resources()...)
	if !c.guarded {
		b.Unguarded()
	}
	if err := register("bindings", b.Collectors()); err != nil {
		return nil, err
	}
	p.work["bindings"] = b.Run
	p.ready["bindings"] = synced(b.HasSynced)
	return b, nil
}

func register(role string, collectors []prometheus.Collector) error {
	for _, c := range collectors {
		if err := prometheus.Register(c); err != nil {
			return fmt.Errorf("register the metrics of %s: %w", role, err)
		}
	}
	return nil
}

func (c *Config) buildClickHouse(p *process, log *slog.Logger) error {
	e := c.ClickHouse.Embedded
	addr, err := c.ClickHouse.Address()
	if err != nil {
		return err
	}
	user, password, err := c.ClickHouse.Credentials()
	if err != nil {
		return err
	}
	srv, err := chdb.New(chdb.Config{Dir: e.Dir, Listen: addr, Library: e.Library, Username: user, Password: password}, log)
	if err != nil {
		return err
	}
	p.storage["clickhouse"] = srv.Run
	p.ready["clickhouse"] = closed(srv.Ready(), "the ClickHouse engine is starting")
	return nil
}

// serve adds a server that the API server calls.
func (p *process) serve(name, listen string, t httpserve.TLS, h http.Handler, log *slog.Logger) {
	p.servers = append(p.servers, &httpserve.Server{
		Name: name, Listen: listen, TLS: t, BodyTimeout: bodyTimeout, Handler: h, Log: log,
	})
}

func synced(has func() bool) healthz.Checker {
	return func(*http.Request) error {
		if !has() {
			return fmt.Errorf("not in step with the API server yet")
		}
		return nil
	}
}

// closed is ready once done is.
func closed(done <-chan struct{}, otherwise string) healthz.Checker {
	return func(*http.Request) error {
		select {
		case <-done:
			return nil
		default:
			return errors.New(otherwise)
		}
	}
}

// serveHealth answers /healthz (the process is there), /readyz (its roles can
// work) and /metrics until ctx ends.
func (p *process) serveHealth(ctx context.Context, listen string) error {
	mux := http.NewServeMux()
	mux.Handle("/healthz", &healthz.Handler{Checks: map[string]healthz.Checker{"ping": healthz.Ping}})
	mux.Handle("/readyz", http.StripPrefix("/readyz", &healthz.Handler{Checks: p.ready}))
	mux.Handle("/readyz/", http.StripPrefix("/readyz/", &healthz.Handler{Checks: p.ready}))
	mux.Handle("/metrics", promhttp.Handler())
	srv := &http.Server{Addr: listen, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- srv.ListenAndServe() }()
	select {
	case err := <-served:
		return fmt.Errorf("health: %w: name another address at health.listen", err)
	case <-ctx.Done():
		_ = srv.Close() // probes only: nothing to drain
		//nolint:errcheck // http.ErrServerClosed, by the line above
		<-served
		return nil
	}
}

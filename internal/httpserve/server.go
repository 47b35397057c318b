package httpserve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

const (
	// headerTimeout bounds how long a caller may take to send its headers.
	headerTimeout = 10 * time.Second
	// idleTimeout outlives the API server's own keep-alive (90 s in Go's
	// transport), so that it is the client who closes first.
	idleTimeout = 2 * time.Minute
	// maxHeaderBytes leaves room for a 16 KiB token and a browser's cookies.
	maxHeaderBytes = 64 << 10
	// drainTimeout bounds a stop; a pod gets 30 s by default.
	drainTimeout = 20 * time.Second
)

// Server is one HTTPS server.
type Server struct {
	// Name says which server speaks in logs.
	Name string
	// Listen is the address, host:port.
	Listen string
	// TLS names the certificate files.
	TLS TLS
	// BodyTimeout bounds the reading of one request. Zero means no bound, for
	// the proxy's long streams.
	BodyTimeout time.Duration
	// HTTP2 is for clients like kubectl, which keep watches open. The API server
	// calls webhooks by HTTP/1.1, except on its own host: there all its calls
	// would share one connection, and those that are held would be in the way of
	// the others once there are as many as it may have streams.
	HTTP2 bool
	// Handler answers.
	Handler http.Handler
	Log     *slog.Logger
}

// Bind takes the address, so that a port in use is known before anything is served.
func (s *Server) Bind(ctx context.Context) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.Listen)
	if err != nil {
		return nil, fmt.Errorf("%s can't listen on %s: %w: stop what holds that port, or name another in the config", s.Name, s.Listen, err)
	}
	return l, nil
}

// Serve answers on l until ctx ends, then drains and returns nil.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	conf, err := s.tlsConfig(ctx)
	if err != nil {
		_ = l.Close() // nothing was accepted
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(s.HTTP2)
	srv := &http.Server{
		Handler:           s.recover(s.onlyNamed(s.Handler)),
		TLSConfig:         conf,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       s.BodyTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
		// Requests outlive the stop signal: they are drained, not cut.
		Protocols:   protocols,
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		ConnContext: withGathering,
	}
	served := make(chan error, 1)
	conns := &gatheringListener{Listener: l}
	go func() { served <- srv.ServeTLS(conns, "", "") }()
	s.Log.InfoContext(ctx, "serving", "server", s.Name, "address", l.Addr().String())
	select {
	case err := <-served:
		return fmt.Errorf("%s: %w", s.Name, err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := srv.Shutdown(drain); err != nil {
		// Watches and holds that outlast the drain are cut; their clients retry.
		conns.unblock()
		_ = srv.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	return nil
}

// Run binds and serves.
func (s *Server) Run(ctx context.Context) error {
	l, err := s.Bind(ctx)
	if err != nil {
		return err
	}
	return s.Serve(ctx, l)
}

func (s *Server) tlsConfig(ctx context.Context) (*tls.Config, error) {
	base := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		// Go would send the first 128 KB of each connection in records of one packet,
		// each by a system call of its own.
		DynamicRecordSizingDisabled: true,
	}
	if s.HTTP2 {
		base.NextProtos = []string{"h2", "http/1.1"}
	}
	serving, err := dynamiccertificates.NewDynamicServingContentFromFiles(s.Name, s.TLS.CertFile, s.TLS.KeyFile)
	if err != nil {
		return nil, err
	}
	var clientCA dynamiccertificates.CAContentProvider
	if s.TLS.ClientCAFile != "" {
		ca, err := dynamiccertificates.NewDynamicCAContentFromFile(s.Name, s.TLS.ClientCAFile)
		if err != nil {
			return nil, err
		}
		base.ClientAuth = tls.RequireAndVerifyClientCert
		clientCA = ca
		go ca.Run(ctx, 1)
	}
	go serving.Run(ctx, 1)
	ctl := dynamiccertificates.NewDynamicServingCertificateController(base, clientCA, serving, nil, nil)
	serving.AddListener(ctl)
	if ca, ok := clientCA.(*dynamiccertificates.DynamicFileCAContent); ok {
		ca.AddListener(ctl)
	}
	if err := ctl.RunOnce(); err != nil {
		return nil, err
	}
	go ctl.Run(1, ctx.Done())
	base.GetConfigForClient = ctl.GetConfigForClient
	return base, nil
}

// onlyNamed lets through the callers whose certificate bears an allowed name.
func (s *Server) onlyNamed(next http.Handler) http.Handler {
	if len(s.TLS.ClientNames) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 ||
			!slices.Contains(s.TLS.ClientNames, r.TLS.PeerCertificates[0].Subject.CommonName) {
			http.Error(w, "this client certificate may not call here", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// recover answers 500 for a handler that panicked: a bug of ours that must not
// read as an empty 200. http.ErrAbortHandler is the way to cut an answer short,
// so it goes on up.
func (s *Server) recover(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler { //nolint:errorlint // a sentinel panic value, compared as net/http does
				panic(p)
			}
			// The value may quote what was being handled, so only where it happened is logged.
			s.Log.ErrorContext(r.Context(), "handler panicked", "server", s.Name, "stack", string(debug.Stack()))
			w.WriteHeader(http.StatusInternalServerError)
		}()
		next.ServeHTTP(w, r)
	})
}

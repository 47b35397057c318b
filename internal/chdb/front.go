package chdb

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httputil"
)

// front is what the parent answers: health, authentication, and everything else
// from the engine's process.
func (s *Server) front(transport http.RoundTripper) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "engine"
		},
		Transport:     transport,
		FlushInterval: -1, // results are streamed
		ErrorLog:      slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				return // nobody listens
			}
			if tooBig := new(http.MaxBytesError); errors.As(err, &tooBig) {
				refuse(codeTooLarge, "the body is over %d bytes", tooBig.Limit).write(w)
				return
			}
			s.log.Error("clickhouse request lost", "error", err)
			w.Header().Set("Retry-After", "1")
			refuse(codeNetwork, "the ClickHouse engine went away during this request, or is not up yet; it restarts by itself").write(w)
		},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/ping", ok)
	mux.HandleFunc("/replicas_status", ok)
	mux.Handle("/", onlyAuthenticated(s.cfg.Username, s.cfg.Password, proxy))
	return mux
}

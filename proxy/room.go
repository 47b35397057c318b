package proxy

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// What may wait in one replica. A request that waits takes a connection or
// stream of its client's, some 20 KiB, and its body; nothing of the API server.
// Past a bound the webhook's 429 goes to the client at once.
const (
	maxWaiting            = 1000
	maxWaitingPerRun      = 50
	maxWaitingBytes       = 256 << 20
	maxWaitingBytesPerRun = 32 << 20
)

// room counts who waits, and how many bytes of theirs are kept.
type room struct {
	most, mostPerRun           int
	mostBytes, mostBytesPerRun int64

	mu    sync.Mutex
	all   share
	byRun map[v1alpha1.RunKey]share
}

type share struct {
	n     int
	bytes int64
}

// enter counts one more in, unless a bound is reached: then full names it and
// leave is nil.
func (w *room) enter(run v1alpha1.RunKey, bytes int64) (leave func(), full string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	of := w.byRun[run]
	switch {
	case w.all.n >= w.most, w.all.bytes+bytes > w.mostBytes:
		return nil, "replica"
	case of.n >= w.mostPerRun, of.bytes+bytes > w.mostBytesPerRun:
		return nil, "run"
	}
	w.add(run, 1, bytes)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.add(run, -1, -bytes)
	}, ""
}

func (w *room) add(run v1alpha1.RunKey, n int, bytes int64) {
	w.all.n += n
	w.all.bytes += bytes
	of := w.byRun[run]
	of.n += n
	of.bytes += bytes
	if of.n == 0 {
		delete(w.byRun, run)
		return
	}
	if w.byRun == nil {
		w.byRun = map[v1alpha1.RunKey]share{}
	}
	w.byRun[run] = of
}

// holdMetrics count held changes that wait in the proxy.
type holdMetrics struct {
	waiting prometheus.Gauge
	ends    *prometheus.CounterVec
	waited  prometheus.Histogram
	full    *prometheus.CounterVec
}

func newHoldMetrics() *holdMetrics {
	m := &holdMetrics{
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tipstaff_proxy_held_waiting",
			Help: "Held changes that wait in the proxy now.",
		}),
		ends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tipstaff_proxy_held_ends_total",
			Help: "Held changes that have waited in the proxy, by how that ended: answered (sent again and answered), expired, timeout, token (not taken any more), gone (the client left, or the run was revoked), unknown (nobody could tell of the approval), rounds (held again and again) or failed (no answer from the API server).",
		}, []string{"end"}),
		waited: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "tipstaff_proxy_held_duration_seconds",
			Help:    "Time from a held change's arrival in the proxy to its last answer.",
			Buckets: []float64{1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600},
		}),
		full: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tipstaff_proxy_held_full_total",
			Help: "Held changes that were answered at once because too much waits in the proxy already, of the run or of the whole replica.",
		}, []string{"of"}),
	}
	// A counter that is first seen at 1 has not increased for Prometheus.
	for _, end := range []string{endAnswered, endExpired, endTimeout, endToken, endGone, endUnknown, endRounds, endFailed} {
		m.ends.WithLabelValues(end)
	}
	m.full.WithLabelValues("run")
	m.full.WithLabelValues("replica")
	return m
}

func (m *holdMetrics) ended(how string, took time.Duration) {
	m.ends.WithLabelValues(how).Inc()
	m.waited.Observe(took.Seconds())
}

// Collectors are the metrics of p.
func (p *Proxy) Collectors() []prometheus.Collector {
	m := p.holds.metrics
	return []prometheus.Collector{m.waiting, m.ends, m.waited, m.full, p.metrics.unaudited, p.metrics.sessions}
}

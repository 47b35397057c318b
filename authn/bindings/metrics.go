package bindings

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Label values: what came of an Ensure, of one binding, and why one was removed.
const (
	outcomeKnown   = "known"  // everything was in force already
	outcomeMade    = "made"   // something had to be written or proved
	outcomeRefused = "failed" // an error

	madeCreated = "created"
	madeUpdated = "updated" // extended, or put right
	madeSkipped = "skipped" // its namespace is missing
	madeFailed  = "failed"

	reasonExpired    = "expired"
	reasonRevoked    = "revoked"
	reasonNotAllowed = "not_allowed"
	reasonMalformed  = "malformed"
	reasonReplaced   = "replaced"
	reasonRefused    = "refused" // its grant is
	reasonDeleted    = "deleted" // its grant is

	kindRun   = "run"
	kindGrant = "grant"
)

type metrics struct {
	bindings []prometheus.Collector
	made     *prometheus.CounterVec
	removed  *prometheus.CounterVec
	ensure   *prometheus.HistogramVec
}

func newMetrics(v *view) *metrics {
	m := &metrics{
		made: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "tipstaff", Subsystem: "bindings", Name: "made_total",
			Help: "Bindings created, updated, skipped (namespace missing) or failed, by kind and outcome.",
		}, []string{"kind", "outcome"}),
		removed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "tipstaff", Subsystem: "bindings", Name: "removed_total",
			Help: "Bindings removed, by kind and reason.",
		}, []string{"kind", "reason"}),
		ensure: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "tipstaff", Subsystem: "bindings", Name: "ensure_duration_seconds",
			Help:    "How long authentication waited for a run's bindings, by outcome.",
			Buckets: []float64{.00001, .0001, .001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
		}, []string{"outcome"}),
	}
	for kind, n := range map[string]func() float64{
		kindRun:   func() float64 { runs, _ := v.count(); return float64(runs) },
		kindGrant: func() float64 { _, grants := v.count(); return float64(grants) },
	} {
		m.bindings = append(m.bindings, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "tipstaff", Name: "bindings", Help: "Bindings that are there.",
			ConstLabels: prometheus.Labels{"kind": kind},
		}, n))
	}
	return m
}

func (m *metrics) collectors() []prometheus.Collector {
	return append([]prometheus.Collector{m.made, m.removed, m.ensure}, m.bindings...)
}

func (m *metrics) ensured(outcome string, took time.Duration) {
	m.ensure.WithLabelValues(outcome).Observe(took.Seconds())
}

func kindOf(grant bool) string {
	if grant {
		return kindGrant
	}
	return kindRun
}

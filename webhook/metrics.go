package webhook

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admission/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// metrics count how agents' changes fare. No label comes from an agent: rules
// are the config's, the rest are words of ours.
type metrics struct {
	verdicts *prometheus.CounterVec
	refusals *prometheus.CounterVec
	taking   *prometheus.HistogramVec
	waiting  prometheus.Gauge
	waited   prometheus.Histogram
	full     *prometheus.CounterVec
	// strangers are no agents, and were sent to us all the same.
	strangers prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		verdicts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tipstaff_admission_verdicts_total",
			Help: "Reviews of agents' changes by verdict (allowed, held, approved, denied, or dryRun of what would be held) and the rule that gave it; rule is empty where none did.",
		}, []string{"verdict", "rule"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tipstaff_admission_refusals_total",
			Help: "Reviews of agents' changes that were answered no, by the reason that the agent got: Held, Denied, Expired, Rule, Revoked, NoRun, Mask, Unchecked and so on.",
		}, []string{"reason"}),
		taking: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tipstaff_admission_duration_seconds",
			Help:    "Time to answer a review of an agent's change, by verdict, the inline wait included.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"verdict"}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tipstaff_admission_waiting",
			Help: "Held requests that wait inline now. Each holds a seat of the API server.",
		}),
		waited: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "tipstaff_admission_wait_duration_seconds",
			Help:    "Time that a held request waited inline for a decision.",
			Buckets: []float64{.1, .5, 1, 2, 3, 4, 5, 6, 8, 10},
		}),
		full: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tipstaff_admission_waiting_full_total",
			Help: "Held requests that were answered at once because too many wait inline already, of the run or of the whole cluster.",
		}, []string{"of"}),
		strangers: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tipstaff_admission_not_agents_total",
			Help: "Reviews of those who are no agents by this config, let through. The webhook configuration sends agents only: any increase means that it and clusterAgents differ.",
		}),
	}
	// A counter that is first seen at 1 has not increased for Prometheus.
	for _, reason := range []string{ReasonHeld, ReasonDenied, ReasonExpired, ReasonRule, ReasonRevoked, ReasonNoRun, ReasonMask, ReasonTooMany, ReasonUnchecked} {
		m.refusals.WithLabelValues(reason)
	}
	m.full.WithLabelValues("run")
	m.full.WithLabelValues("cluster")
	return m
}

// Collectors are the metrics of w.
func (w *Webhook) Collectors() []prometheus.Collector {
	m := w.metrics
	return []prometheus.Collector{m.verdicts, m.refusals, m.taking, m.waiting, m.waited, m.full, m.strangers}
}

// judged counts one answer by what stands in it: the audit annotations and the
// causes that the agent gets.
func (m *metrics) judged(resp *admissionv1.AdmissionResponse, took time.Duration) {
	verdict := resp.AuditAnnotations[v1alpha1.AnnotationVerdict]
	m.verdicts.WithLabelValues(verdict, resp.AuditAnnotations[v1alpha1.AnnotationRule]).Inc()
	m.taking.WithLabelValues(verdict).Observe(took.Seconds())
	if resp.Allowed || resp.Result == nil || resp.Result.Details == nil {
		return
	}
	for _, c := range resp.Result.Details.Causes {
		if c.Type == CauseReason {
			m.refusals.WithLabelValues(c.Message).Inc()
		}
	}
}

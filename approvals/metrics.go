package approvals

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// metrics count what becomes of approvals. Each change is counted by the
// replica whose write made it, so the sum over replicas is the truth.
type metrics struct {
	opened   *prometheus.CounterVec
	phases   *prometheus.CounterVec
	deciding *prometheus.HistogramVec
	broken   *prometheus.CounterVec
	full     *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		opened: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tipstaff_approvals_opened_total",
			Help: "Approvals opened, by the rule that held the request.",
		}, []string{"rule"}),
		phases: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tipstaff_approvals_phase_changes_total",
			Help: "Approvals that came to a phase, by rule and phase.",
		}, []string{"rule", "phase"}),
		deciding: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tipstaff_approvals_decision_duration_seconds",
			Help:    "Time from an approval's opening to the decision that approved or denied it.",
			Buckets: []float64{1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600},
		}, []string{"rule", "phase"}),
		broken: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tipstaff_approvals_break_glass_total",
			Help: "Approvals that one person gave alone, past the quorum. Alert on any increase.",
		}, []string{"rule"}),
		full: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tipstaff_approvals_full_total",
			Help: "Requests refused because too many approvals are pending already, of the run or of the whole cluster.",
		}, []string{"of"}),
	}
	// A counter that is first seen at 1 has not increased for Prometheus.
	m.full.WithLabelValues("run")
	m.full.WithLabelValues("cluster")
	return m
}

// MayBreakGlass counts the broken glass of these rules from 0 on, so that the
// first one is an increase too. Of other rules it appears with their first
// approval that knows break-glass.
func (s *Store) MayBreakGlass(rules ...string) {
	for _, rule := range rules {
		s.metrics.broken.WithLabelValues(rule)
	}
}

// Collectors are the metrics of s.
func (s *Store) Collectors() []prometheus.Collector {
	m := s.metrics
	return []prometheus.Collector{m.opened, m.phases, m.deciding, m.broken, m.full}
}

// came counts that a came to phase by a write of ours.
func (m *metrics) came(a *v1alpha1.Approval, phase v1alpha1.Phase) {
	if len(a.Spec.BreakGlass) > 0 {
		m.broken.WithLabelValues(a.Spec.Rule)
	}
	m.phases.WithLabelValues(a.Spec.Rule, string(phase)).Inc()
}

// decided counts the decision that a phase rests on, and how long it took.
func (m *metrics) decided(a *v1alpha1.Approval, phase v1alpha1.Phase) {
	if len(a.Status.Decisions) == 0 {
		return
	}
	last := a.Status.Decisions[len(a.Status.Decisions)-1]
	took := max(last.At.Sub(a.CreationTimestamp.Time), 0)
	m.deciding.WithLabelValues(a.Spec.Rule, string(phase)).Observe(took.Round(time.Second).Seconds())
	if phase == v1alpha1.PhaseApproved && BrokenGlass(a) {
		m.broken.WithLabelValues(a.Spec.Rule).Inc()
	}
}

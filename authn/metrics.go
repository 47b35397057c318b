package authn

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// outcome is how a token fared, as metrics count it.
type outcome string

const (
	outcomeAccepted    outcome = "accepted"
	outcomePassedOver  outcome = "passed_over" // of no configured issuer
	outcomeRefused     outcome = "refused"     // the token doesn't hold
	outcomeRevoked     outcome = "revoked"
	outcomeUnavailable outcome = "unavailable" // keys, revocations or bindings couldn't be had
	outcomeError       outcome = "error"       // a bug of ours
)

// metrics counts what an Authenticator does.
type metrics struct {
	reviews   *prometheus.CounterVec
	verifying prometheus.Histogram
	hits      prometheus.Counter
	runs      *activeRuns
	keyAges   *keyAges
}

func newMetrics(issuers map[string]*issuer) *metrics {
	return &metrics{
		reviews: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tipstaff_authn_reviews_total",
			Help: "Tokens asked about, by the API server or the proxy. Issuer and mapping are empty where none was reached.",
		}, []string{"issuer", "mapping", "outcome"}),
		verifying: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "tipstaff_authn_verify_duration_seconds",
			Help:    "Time to verify and map one token of a configured issuer that was not remembered.",
			Buckets: []float64{.00005, .0001, .0002, .0005, .001, .002, .005, .01, .05, .1, .5, 1, 5},
		}),
		hits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tipstaff_authn_cache_hits_total",
			Help: "Tokens whose signature was not verified again because it had been.",
		}),
		runs:    newActiveRuns(maxActiveRuns, time.Now),
		keyAges: &keyAges{issuers: issuers},
	}
}

// Collectors are the metrics of a.
func (a *Authenticator) Collectors() []prometheus.Collector {
	m := a.metrics
	return []prometheus.Collector{m.reviews, m.verifying, m.hits, m.runs, m.keyAges}
}

// countResult counts what authenticate gave.
func (m *metrics) countResult(v *verified, err error) {
	var refused *RefusedError
	switch {
	case err == nil:
		m.count(v.by.name, v.mapping, outcomeAccepted)
	case errors.Is(err, ErrNotOurs):
		m.count("", "", outcomePassedOver)
	case errors.As(err, &refused):
		m.count(refused.issuer, refused.mapping, refused.outcome)
	default:
		m.count("", "", outcomeError)
	}
}

func (m *metrics) count(issuer, mapping string, o outcome) {
	m.reviews.WithLabelValues(issuer, mapping, string(o)).Inc()
}

var keyAgeDesc = prometheus.NewDesc("tipstaff_authn_keyset_age_seconds",
	"Time since the issuer last answered with its keys; missing as long as it never did.", []string{"issuer"}, nil)

// keyAges collects how old every issuer's keys are.
type keyAges struct{ issuers map[string]*issuer }

// Describe is of prometheus.Collector.
func (k *keyAges) Describe(ch chan<- *prometheus.Desc) { ch <- keyAgeDesc }

// Collect is of prometheus.Collector.
func (k *keyAges) Collect(ch chan<- prometheus.Metric) {
	for _, is := range k.issuers {
		if read := is.keysRead.Load(); read != 0 {
			age := is.now().Sub(time.Unix(0, read)).Seconds()
			ch <- prometheus.MustNewConstMetric(keyAgeDesc, prometheus.GaugeValue, age, is.name)
		}
	}
}

// maxActiveRuns bounds the memory of the gauge, some 8 MiB. Above it the gauge
// stays at the bound.
const maxActiveRuns = 64 << 10

var activeRunsDesc = prometheus.NewDesc("tipstaff_authn_active_runs",
	"Runs of which this replica saw a token that has not ended yet.", nil, nil)

// activeRuns collects how many runs have a token that hasn't ended.
type activeRuns struct {
	max int
	now func() time.Time

	mu    sync.Mutex
	until map[v1alpha1.RunKey]int64 // Unix seconds
	swept int64
}

func newActiveRuns(limit int, now func() time.Time) *activeRuns {
	return &activeRuns{max: limit, now: now, until: map[v1alpha1.RunKey]int64{}}
}

// seen takes note of a token of the run.
func (r *activeRuns) seen(k v1alpha1.RunKey, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, known := r.until[k]
	if !known && len(r.until) >= r.max {
		// At most one sweep a second, however many runs come.
		if now := r.now().Unix(); now > r.swept {
			r.swept = now
			r.sweep(now)
		}
		if len(r.until) >= r.max {
			return
		}
	}
	r.until[k] = max(old, until.Unix())
}

func (r *activeRuns) sweep(now int64) {
	for k, until := range r.until {
		if until <= now {
			delete(r.until, k)
		}
	}
}

// Describe is of prometheus.Collector.
func (r *activeRuns) Describe(ch chan<- *prometheus.Desc) { ch <- activeRunsDesc }

// Collect is of prometheus.Collector.
func (r *activeRuns) Collect(ch chan<- prometheus.Metric) {
	r.mu.Lock()
	r.sweep(r.now().Unix())
	n := len(r.until)
	r.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(activeRunsDesc, prometheus.GaugeValue, float64(n))
}

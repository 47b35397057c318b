package ingest

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tipstaff-dev/tipstaff/schema"
)

type metrics struct {
	batches, events, outcomes  *prometheus.CounterVec
	sessions                   *prometheus.CounterVec
	rows, failures             prometheus.Counter
	forwarded, forwardFailures prometheus.Counter
	insertRows, insertSeconds  prometheus.Histogram
	delay                      *prometheus.HistogramVec
	chainFailures              *prometheus.CounterVec
}

func newMetrics() metrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "tipstaff", Subsystem: "ingest", Name: name, Help: help}
	}
	histogram := func(name, help string, buckets []float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Namespace: "tipstaff", Subsystem: "ingest", Name: name, Help: help, Buckets: buckets}
	}
	return metrics{
		batches:  prometheus.NewCounterVec(counter("batches_total", "Batches received, by outcome."), []string{"cluster", "outcome"}),
		events:   prometheus.NewCounterVec(counter("events_total", "Events received, by outcome."), []string{"cluster", "outcome"}),
		outcomes: prometheus.NewCounterVec(counter("outcomes_total", "Ends of approved requests, passed to their approvals or dropped."), []string{"result"}),
		sessions: prometheus.NewCounterVec(counter("session_pieces_total", "Pieces of recorded sessions received, by outcome."), []string{"cluster", "outcome"}),
		rows:     prometheus.NewCounter(counter("rows_total", "Rows inserted into ClickHouse, redelivered ones counted again.")),
		failures: prometheus.NewCounter(counter("insert_failures_total", "Inserts into ClickHouse that failed.")),

		forwarded:       prometheus.NewCounter(counter("forwarded_total", "Messages that went from the spool to the remote JetStream.")),
		forwardFailures: prometheus.NewCounter(counter("forward_failures_total", "Tries of the spool's that the remote JetStream didn't take.")),

		chainFailures: prometheus.NewCounterVec(counter("chain_failures_total", "Batches that the log which proves what is stored could not be extended by; they are tried again."), []string{"cluster"}),

		insertRows:    prometheus.NewHistogram(histogram("insert_rows", "Rows of one insert into ClickHouse.", prometheus.ExponentialBuckets(1, 4, 9))),
		insertSeconds: prometheus.NewHistogram(histogram("insert_duration_seconds", "How long an insert into ClickHouse took.", prometheus.ExponentialBuckets(0.005, 2, 14))),
		delay: prometheus.NewHistogramVec(histogram("delay_seconds", "From the time that an event tells to when it can be asked for in ClickHouse.",
			[]float64{.25, .5, 1, 2, 4, 8, 15, 30, 60, 300, 900, 3600, 6 * 3600, 24 * 3600}), []string{"cluster"}),
	}
}

// fromZero has every counter there before it counts: one that appears at 1 has
// not increased for Prometheus.
func (m *metrics) fromZero(clusters []string) {
	for _, cluster := range clusters {
		for _, outcome := range []string{"stored", "unavailable", "malformed", "too_large"} {
			m.batches.WithLabelValues(cluster, outcome)
		}
		for _, outcome := range []string{"stored", "unavailable", "malformed"} {
			m.sessions.WithLabelValues(cluster, outcome)
		}
		m.events.WithLabelValues(cluster, "stored")
		m.events.WithLabelValues(cluster, "quarantined")
		m.delay.WithLabelValues(cluster)
		m.chainFailures.WithLabelValues(cluster)
	}
	m.outcomes.WithLabelValues("passed")
	m.outcomes.WithLabelValues("dropped")
}

// inserted notes an insert that is done.
func (m *metrics) inserted(events []schema.Event, rows int, took time.Duration, now time.Time) {
	m.rows.Add(float64(rows))
	m.insertRows.Observe(float64(rows))
	m.insertSeconds.Observe(took.Seconds())
	for i := range events {
		m.delay.WithLabelValues(events[i].Cluster).Observe(max(0, now.Sub(events[i].StageTime).Seconds()))
	}
}

// Collectors are the role's metrics.
func (in *Ingest) Collectors() []prometheus.Collector {
	m := &in.metrics
	return []prometheus.Collector{
		m.batches, m.events, m.outcomes, m.sessions, m.rows, m.failures, m.forwarded, m.forwardFailures,
		m.insertRows, m.insertSeconds, m.delay, m.chainFailures, waiting{in},
	}
}

// waiting tells what the streams hold when it is asked. Of one that can't be asked
// it says nothing: an old figure would be a wrong one.
type waiting struct{ in *Ingest }

var (
	waitingMessages = prometheus.NewDesc("tipstaff_ingest_stream_messages", "Messages that a stream holds.", []string{"stream"}, nil)
	waitingBytes    = prometheus.NewDesc("tipstaff_ingest_stream_bytes", "Bytes that a stream holds.", []string{"stream"}, nil)
	waitingSeconds  = prometheus.NewDesc("tipstaff_ingest_stream_oldest_seconds", "How long the oldest message of a stream has been there, 0 where it is empty.", []string{"stream"}, nil)
)

// askTimeout bounds the wait for JetStream within a scrape.
const askTimeout = 2 * time.Second

// Describe gives what Collect may give.
func (waiting) Describe(to chan<- *prometheus.Desc) {
	to <- waitingMessages
	to <- waitingBytes
	to <- waitingSeconds
}

// Collect asks each stream for its state.
func (w waiting) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	tell := func(s *stream, name, label string) {
		held, err := s.js.Stream(ctx, name)
		if err != nil {
			w.in.log.DebugContext(ctx, "a stream's state can't be asked now", "stream", name, "error", err)
			return
		}
		state, age := held.CachedInfo().State, 0.0
		if state.Msgs > 0 {
			age = max(0, w.in.now().Sub(state.FirstTime).Seconds())
		}
		to <- prometheus.MustNewConstMetric(waitingMessages, prometheus.GaugeValue, float64(state.Msgs), label)
		to <- prometheus.MustNewConstMetric(waitingBytes, prometheus.GaugeValue, float64(state.Bytes), label)
		to <- prometheus.MustNewConstMetric(waitingSeconds, prometheus.GaugeValue, age, label)
	}
	if spool := w.in.stream.Load(); spool != nil && w.in.cfg.JetStream.spools() {
		tell(spool, streamName, "spool")
	}
	if trail := w.in.trail.Load(); trail != nil {
		tell(trail, streamName, "audit")
		tell(trail, quarantineName, "quarantine")
	}
}

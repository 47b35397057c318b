package proxy

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/wait"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/plugin/pkg/audit/buffered"
)

// The modes in which the proxy writes audit events of its own, by the names that
// the API server has for its webhook's (--audit-webhook-mode).
const (
	// AuditBatch sends events in batches, a moment later. What a proxy that is
	// killed had not sent is lost.
	AuditBatch = "batch"
	// AuditBlockingStrict has each request on disk before it goes on to the API
	// server: one that can't be is refused.
	AuditBlockingStrict = "blocking-strict"
)

// Audit has the proxy write audit events of its own, for clusters whose API
// server can't be told to send any.
type Audit struct {
	// Mode is batch or blocking-strict.
	Mode string `json:"mode"`
}

func (a *Audit) validate(at *field.Path) field.ErrorList {
	if a.Mode != AuditBatch && a.Mode != AuditBlockingStrict {
		return field.ErrorList{field.NotSupported(at.Child("mode"), a.Mode, []string{AuditBatch, AuditBlockingStrict})}
	}
	return nil
}

// Events keeps audit events.
type Events interface {
	// StoreEvents returns nil when list, an audit.k8s.io/v1 EventList in JSON, is
	// on disk. The same list may come twice. recording.ErrRefused means that trying
	// again is of no use.
	StoreEvents(ctx context.Context, list []byte) error
}

// The batches' bounds are the API server's defaults, but for the wait: a SOC
// wants to see now what agents do.
var auditBatches = buffered.BatchConfig{BufferSize: maxEventsHeld, MaxBatchSize: 400, MaxBatchWait: time.Second, AsyncDelegate: true}

// auditTries bridge what a restart of ingest takes. In a batch nobody waits for
// them; a request that does gets fewer.
var (
	auditTries       = wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.1, Steps: 9, Cap: 30 * time.Second}
	auditStrictTries = wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.1, Steps: 3}
)

// auditor writes events of what agents ask.
type auditor struct {
	sink   audit.Backend
	policy audit.PolicyRuleEvaluator
}

// AuditWith has the proxy write events of its own to e. It is called before the
// first request; RunAudit sends them.
func (p *Proxy) AuditWith(e Events, mode string) {
	b := &eventSink{to: e, tries: auditStrictTries, proxy: p}
	a := &auditor{sink: b}
	rules := &auditinternal.Policy{Rules: []auditinternal.PolicyRule{{Level: auditinternal.LevelRequest}}}
	if mode != AuditBlockingStrict {
		b.tries = auditTries
		a.sink = newQueue(b, auditBatches)
		rules.OmitStages = []auditinternal.Stage{auditinternal.StageRequestReceived}
	}
	a.policy = policy.NewPolicyRuleEvaluator(rules)
	p.audit = a
}

// RunAudit sends events until ctx ends, and then what is there still.
func (p *Proxy) RunAudit(ctx context.Context) error {
	if err := p.audit.sink.Run(ctx.Done()); err != nil {
		return fmt.Errorf("run the audit: %w", err)
	}
	<-ctx.Done()
	p.audit.sink.Shutdown()
	return nil
}

// audited has the request's event written around next.
func (p *Proxy) audited(w http.ResponseWriter, r *http.Request, q *asked, next http.HandlerFunc) {
	ctx := request.WithRequestInfo(r.Context(), q.info)
	ctx = request.WithUser(ctx, &user.DefaultInfo{Name: q.identity.UserName, Groups: q.identity.Groups, Extra: q.identity.Extra})
	ctx = audit.WithAuditContext(ctx)
	audit.WithAuditID(ctx, types.UID(q.id))
	// The event's addresses would begin with what these say, and agents say it.
	r.Header.Del("X-Forwarded-For")
	r.Header.Del("X-Real-Ip")
	// An answer that breaks off, because its client or its run has gone, is no
	// panic of the server's.
	broke := false
	within := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch why := recover(); why {
			case nil:
			case http.ErrAbortHandler:
				broke = true
			default:
				panic(why)
			}
		}()
		next(w, r)
	})
	filters.WithAudit(within, p.audit.sink, p.audit.policy, longRunning).ServeHTTP(w, r.WithContext(ctx))
	if broke {
		panic(http.ErrAbortHandler)
	}
}

// longRunning reports whether the request's beginning has an event of its own.
func longRunning(_ *http.Request, info *request.RequestInfo) bool {
	return info.Verb == "watch" || info.IsResourceRequest && (interactive[info.Subresource] || logs(info))
}

// proxyMetrics are the proxy's own, beside those of what waits.
type proxyMetrics struct {
	unaudited prometheus.Counter
	sessions  *prometheus.CounterVec
}

func newProxyMetrics() *proxyMetrics {
	m := &proxyMetrics{
		unaudited: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "tipstaff", Subsystem: "proxy", Name: "audit_events_lost_total", Help: "Audit events of the proxy's own that could not be stored, or held until then.",
		}),
		sessions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "tipstaff", Subsystem: "proxy", Name: "sessions_total", Help: "Sessions of exec and attach, by how their recording went: ended, refused or failed.",
		}, []string{"recording"}),
	}
	for _, how := range []string{"ended", "refused", "failed"} {
		m.sessions.WithLabelValues(how)
	}
	return m
}

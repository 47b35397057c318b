package webhook

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/admissionreview"
)

// maxBytesWaiting is what a held request may keep on the heap while it waits.
const maxBytesWaiting = 10_000

// bytesPerWaiter holds n requests, each with two objects of 16 KiB and more, and
// gives what one of them costs while all wait.
func bytesPerWaiter(tb testing.TB, n int) (heap, stack uint64) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	arrived := make(chan struct{}, n)
	f := &waitingApprovals{arrived: arrived}
	w := newWebhook(tb, f, notRevoked, Config{})
	w.inline, w.waiters.most = time.Hour, n
	before := inUse()
	var group sync.WaitGroup
	for i := range n {
		value := strings.Repeat("x", 16<<10)
		req := request(tb, "UPDATE core/secrets shop s", "{metadata: {uid: u, resourceVersion: '7'}, data: {a: "+value+"y}}", "{metadata: {uid: u, resourceVersion: '7'}, data: {a: "+value+"}}")
		req.UserInfo.Extra[v1alpha1.ExtraRun] = authenticationv1.ExtraValue{fmt.Sprint("run-", i)}
		body := mustJSON(tb, admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: req})
		rev, err := admissionreview.Parse(body)
		if err != nil {
			tb.Fatal(err)
		}
		group.Go(func() { w.answer(ctx, rev) })
		<-arrived // it has let go of its objects
	}
	after := inUse()
	cancel()
	group.Wait()
	per := func(before, after uint64) uint64 { return (after - min(before, after)) / uint64(n) }
	return per(before.HeapAlloc, after.HeapAlloc), per(before.StackInuse, after.StackInuse)
}

// inUse is what is taken after stacks have shrunk, which each collection halves.
func inUse() (m runtime.MemStats) {
	for range 4 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m
}

// waitingApprovals never decides.
type waitingApprovals struct{ arrived chan<- struct{} }

func (*waitingApprovals) Ensure(_ context.Context, s v1alpha1.ApprovalSpec, _ v1alpha1.Try, _ func(*v1alpha1.ApprovalSpec) error) (*v1alpha1.Approval, error) {
	return approvalOf(s, v1alpha1.PhasePending), nil
}

func (f *waitingApprovals) Wait(ctx context.Context, _ string) (*v1alpha1.Approval, error) {
	f.arrived <- struct{}{}
	<-ctx.Done()
	return nil, ctx.Err()
}

func (*waitingApprovals) Use(context.Context, string, v1alpha1.Try) (*v1alpha1.Approval, error) {
	return nil, context.Canceled
}

//nolint:paralleltest // it measures the process's memory
func TestAWaitingRequestLetsGoOfItsObjects(t *testing.T) {
	if got, _ := bytesPerWaiter(t, 100); got > maxBytesWaiting {
		t.Errorf("%d bytes on the heap per waiting request, at most %d are wanted", got, maxBytesWaiting)
	}
}

func BenchmarkWaiting(b *testing.B) {
	var heap, stack uint64
	for b.Loop() {
		heap, stack = bytesPerWaiter(b, 10_000)
	}
	b.ReportMetric(float64(heap), "heapB/waiter")
	b.ReportMetric(float64(stack), "stackB/waiter")
}

package approvals

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

const (
	// maxReports bounds the outcomes that wait to be written.
	maxReports = 1024
	// reportAttempts and reportTimeout bound what one of them may cost.
	reportAttempts = 3
	reportTimeout  = 5 * time.Second
)

// report is one outcome on its way.
type report struct {
	approval, use string
	code          int32
	message       string
}

// Report takes an outcome to be written by [Store.RunReports]. It never blocks;
// false means that too many wait, and this one is lost.
func (s *Store) Report(approval, use string, code int32, message string) bool {
	select {
	case s.reports <- report{approval, use, code, message}:
		return true
	default:
		return false
	}
}

// RunReports writes what is reported until ctx is done. What can't be written
// after a few tries is given up: then the approval stays used.
func (s *Store) RunReports(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-s.reports:
			s.write(ctx, r)
		}
	}
}

func (s *Store) write(ctx context.Context, r report) {
	for i := range reportAttempts {
		if i > 0 && !pause(ctx, time.Second<<i) {
			return
		}
		attempt, cancel := context.WithTimeout(ctx, reportTimeout)
		err := s.Outcome(attempt, r.approval, r.use, r.code, r.message)
		cancel()
		if err == nil {
			return
		}
		s.log.WarnContext(ctx, "how an approved request ended could not be written", "approval", r.approval, "attempt", i+1, "error", err)
	}
}

// pause waits, and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Outcome writes how the request ended that used the approval by the review of
// that uid. Where another has used it since, or its end is known, it does nothing.
func (s *Store) Outcome(ctx context.Context, name, use string, code int32, message string) error {
	for range useAttempts {
		a := &v1alpha1.Approval{}
		err := s.client.Get(ctx, client.ObjectKey{Name: name}, a)
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return fmt.Errorf("read approval %s: %w", name, err)
		case a.Status.Use == nil || a.Status.Use.RequestUID != use || a.Status.Use.Outcome != nil:
			return nil
		}
		a.Status.Use.Outcome = &v1alpha1.Outcome{Code: code, Message: message, At: s.stamp()}
		if err = s.client.Status().Update(ctx, a); err == nil {
			s.log.InfoContext(ctx, "approved request ended", "approval", name, "run", a.Spec.Agent.Run, "code", code)
			return nil
		}
		if !apierrors.IsConflict(err) {
			return fmt.Errorf("write the outcome of approval %s: %w", name, err)
		}
	}
	return fmt.Errorf("write the outcome of approval %s: too many conflicts", name)
}

package webhook

import (
	"fmt"
	"testing"
	"time"
)

// kubectl tries as client-go does: once and ten times more, each after what it
// was told. It gives when each try began and ended.
func kubectl(answer func(began time.Time) (ended time.Time, after time.Duration), began time.Time) (tries [][2]time.Time) {
	for range 11 {
		ended, after := answer(began)
		tries = append(tries, [2]time.Time{began, ended})
		began = ended.Add(after)
	}
	return tries
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestTenRetriesCoverFiveMinutes(t *testing.T) {
	t.Parallel()
	for _, inline := range []time.Duration{0, 500 * time.Millisecond, time.Second, 2 * time.Second, 2400 * time.Millisecond, longWait, 3 * time.Second, 5 * time.Second, 8 * time.Second} {
		for replicas := range 3 {
			for _, late := range []time.Duration{0, 10 * time.Minute} {
				t.Run(fmt.Sprintf("inline %s, %d replicas, %s late", inline, replicas+1, late), func(t *testing.T) {
					t.Parallel()
					members := make([]clients, replicas+1)
					try := 0
					tries := kubectl(func(began time.Time) (time.Time, time.Duration) {
						ended := began.Add(inline)
						c := &members[try%len(members)]
						try++
						return ended, c.next("a", noon, noon.Add(time.Hour), ended, inline)
					}, noon.Add(late))
					if covers := tries[10][1].Sub(tries[0][0]); covers < 5*time.Minute {
						t.Errorf("covers %s: %v", covers, tries)
					}
					// A decision in the first seconds is seen within ten.
					for i := 1; i < len(tries) && tries[i-1][1].Sub(tries[0][0]) < 6*time.Second; i++ {
						if gap := tries[i][0].Sub(tries[i-1][1]); gap > 10*time.Second {
							t.Errorf("after %s comes a gap of %s", tries[i-1][1].Sub(tries[0][0]), gap)
						}
					}
				})
			}
		}
	}
}

func TestALateClientStartsOver(t *testing.T) {
	t.Parallel()
	var c clients
	expires := noon.Add(24 * time.Hour)
	tries := kubectl(func(began time.Time) (time.Time, time.Duration) {
		return began, c.next("a", noon, expires, began, 0)
	}, noon)
	last := tries[10][1]
	if got := c.next("a", noon, expires, last.Add(time.Minute), 0); got != maxRetryAfter {
		t.Fatalf("one that goes on is told %s", got)
	}
	for name, at := range map[string]time.Time{"before the last was due": last.Add(65 * time.Second), "long after it": last.Add(time.Hour)} {
		if got := c.next("a", noon, expires, at, 0); got > firstRetryAfter {
			t.Errorf("one that comes %s is told %s", name, got)
		}
	}
	if got := c.next("b", noon, noon.Add(7*time.Second), noon, 0); got != firstRetryAfter {
		t.Errorf("another's first: %s", got)
	}
	if got := retryAfter(time.Hour, 7*time.Second, 0); got != 7*time.Second {
		t.Errorf("near the end: %s", got)
	}
}

func TestRememberedClientsAreBounded(t *testing.T) {
	t.Parallel()
	var c clients
	for i := range maxClients + 100 {
		c.next(fmt.Sprint(i), noon, noon.Add(time.Hour), noon, 0)
	}
	if len(c.m) > maxClients {
		t.Errorf("%d are remembered", len(c.m))
	}
	c.next("one more", noon, noon.Add(time.Hour), noon.Add(time.Hour), 0)
	if len(c.m) != 1 {
		t.Errorf("%d are remembered after all are gone", len(c.m))
	}
	c.done("one more")
	if len(c.m) != 0 {
		t.Error("a decided one is remembered")
	}
}

package webhook

import (
	"sync"
	"time"
)

const (
	// afterUse is when to come back where an identical request is under way: by
	// then it is seen what became of it.
	afterUse = 5 * time.Second

	minRetryAfter   = time.Second
	firstRetryAfter = 2 * time.Second
	maxRetryAfter   = time.Minute

	// longWait is an inline wait that lets the rest grow half as fast: with it
	// ten retries cover five minutes still, and a decision is seen sooner.
	longWait = 2500 * time.Millisecond

	// maxClients bounds the clients that are remembered, about 100 bytes each.
	maxClients = 10_000
	// forgetAfter is how long after it was due a client counts as gone; meanwhile
	// other replicas may have answered it.
	forgetAfter = 5 * time.Minute
)

// retryAfter tells a client that has been trying for age when to come back. It
// grows with that age, so that a quick decision is picked up within seconds, and
// so that client-go's ten retries cover five minutes, however long each of them
// waits inline.
func retryAfter(age, left, waited time.Duration) time.Duration {
	d := 3 * age / 2
	if waited >= longWait {
		d = 3 * age / 4
	}
	d = min(max(d, firstRetryAfter), maxRetryAfter)
	return min(d, max(left, minRetryAfter)).Round(time.Second)
}

// clients remembers since when the client of each held request tries, since the
// request itself doesn't say how often it was sent. What is forgotten, by a
// restart or past the bound, starts over: it then comes back sooner than needed.
// Any number of replicas may answer one client in turn; each counts from the
// approval's start or from when it first saw the client, so they agree.
type clients struct {
	mu sync.Mutex
	m  map[string]series // by approval
}

// series is one client's tries.
type series struct{ start, due time.Time }

// next is when the client of the approval is to come back. Who comes before it
// was told to, or long after, is another client than the last, such as a second
// kubectl after the first gave up: it starts over. A client's first try counts
// from the approval's own start where that was a moment ago, so that a second
// replica continues what the first began.
func (c *clients) next(approval string, created, expires, now time.Time, waited time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.m[approval]
	arrived := now.Add(-waited)
	// Times are told in whole seconds, and client-go sleeps exactly that long.
	if !ok || arrived.Before(s.due.Add(-minRetryAfter)) || arrived.After(s.due.Add(forgetAfter)) {
		s.start = arrived
		if !ok && arrived.Sub(created) < maxRetryAfter/2 {
			s.start = created
		}
	}
	d := retryAfter(now.Sub(s.start), expires.Sub(now), waited)
	s.due = now.Add(d)
	if c.m == nil {
		c.m = map[string]series{}
	}
	if !ok && len(c.m) >= maxClients {
		c.forget(now)
	}
	c.m[approval] = s
	return d
}

// forget makes room: for all who are gone, or else for any one.
func (c *clients) forget(now time.Time) {
	for k, s := range c.m {
		if now.After(s.due.Add(forgetAfter)) {
			delete(c.m, k)
		}
	}
	for k := range c.m {
		if len(c.m) < maxClients {
			return
		}
		delete(c.m, k)
	}
}

// done forgets the client of an approval that is decided.
func (c *clients) done(approval string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.m, approval)
}

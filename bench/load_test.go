package bench

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// caller is one kept-alive HTTP/1.1 connection over TLS, as the API server's
// webhook client keeps. It does as little as it can: on a machine of two cores
// the load comes from the same ones that serve it.
type caller struct {
	conn *tls.Conn
	r    *bufio.Reader
	head []byte
	yes  []byte
	buf  []byte
	get  []byte // what is sent instead of a review, the same each time
}

func dial(url target, conf *tls.Config) (*caller, error) {
	conn, err := tls.Dial("tcp", url.address, conf)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", url.address, err)
	}
	return &caller{conn: conn, r: bufio.NewReader(conn), yes: []byte(url.yes), head: fmt.Appendf(nil,
		"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nAccept: application/json\r\nContent-Length: ", url.path, url.address)}, nil
}

// target is where a server takes reviews, and what a yes has in it.
type target struct{ address, path, yes string }

// What a yes has in it.
const (
	authenticated = `"authenticated":true`
	allowed       = `"allowed":true`
)

// review sends one review and reads the answer, which must be a yes: no server
// may be fast by refusing.
func (c *caller) review(body []byte) error {
	if c.get != nil {
		return c.read()
	}
	c.buf = append(c.buf[:0], c.head...)
	c.buf = strconv.AppendInt(c.buf, int64(len(body)), 10)
	c.buf = append(append(c.buf, "\r\n\r\n"...), body...)
	if _, err := c.conn.Write(c.buf); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 || !bytes.Contains(answer, c.yes) {
		return fmt.Errorf("answered %s: %.600s", resp.Status, answer)
	}
	return nil
}

// read asks for what get says and reads the answer to its end.
func (c *caller) read() error {
	if _, err := c.conn.Write(c.get); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s", resp.Status)
	}
	return nil
}

func (c *caller) close() { _ = c.conn.Close() } // nothing is under way

// callers opens n connections, shaken hands.
func callers(n int, to target, conf *tls.Config) ([]*caller, error) {
	var all []*caller
	for range n {
		c, err := dial(to, conf)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// feed gives the next review to send, from several goroutines at once.
// False means that there are no more.
type feed func() ([]byte, bool)

// closedLoop has every caller send one review after the other, for d or until
// there are no more, and returns each one's latency.
func closedLoop(all []*caller, next feed, d time.Duration) (latencies []time.Duration, took time.Duration, err error) {
	began := time.Now()
	return together(all, began, func(c *caller, answered func(time.Duration)) error {
		for sent := began; sent.Sub(began) < d; {
			body, ok := next()
			if !ok {
				break
			}
			if err := c.review(body); err != nil {
				return err
			}
			now := time.Now()
			answered(now.Sub(sent))
			sent = now
		}
		return nil
	})
}

// openLoop sends n reviews at constant arrival times, whether or not earlier
// ones were answered. A latency counts from the time at which its review was
// due, so one that had to wait for a free connection, or for us, says so: a slow
// answer can't hide those behind it (coordinated omission).
func openLoop(all []*caller, next feed, perSecond, n int) ([]time.Duration, error) {
	due := make(chan time.Time, n) // all of them: the clock never waits
	began := time.Now().Add(10 * time.Millisecond)
	go func() {
		defer close(due)
		for at := range schedule(began, perSecond, n) {
			// Go's timers wake an idle program to the millisecond only
			// (epoll_wait), which would be most of what is measured.
			if wait := time.Until(at); wait > 0 {
				ts := unix.NsecToTimespec(int64(wait))
				_ = unix.Nanosleep(&ts, nil) // cut short by a signal it is early by a few µs
			}
			due <- at
		}
	}()
	latencies, _, err := together(all, began, func(c *caller, answered func(time.Duration)) error {
		for at := range due {
			body, ok := next()
			if !ok {
				return errors.New("too few tokens for the open loop")
			}
			if err := c.review(body); err != nil {
				return err
			}
			answered(time.Since(at))
		}
		return nil
	})
	return latencies, err
}

// schedule gives n arrival times from began on.
func schedule(began time.Time, perSecond, n int) func(yield func(time.Time) bool) {
	return func(yield func(time.Time) bool) {
		for i := range n {
			if !yield(began.Add(time.Duration(i) * time.Second / time.Duration(perSecond))) {
				return
			}
		}
	}
}

func together(all []*caller, began time.Time, work func(c *caller, answered func(time.Duration)) error) ([]time.Duration, time.Duration, error) {
	var (
		wg        sync.WaitGroup
		mu        sync.Mutex
		latencies []time.Duration
		errs      []error
	)
	for _, c := range all {
		wg.Go(func() {
			var own []time.Duration
			err := work(c, func(d time.Duration) { own = append(own, d) })
			mu.Lock()
			defer mu.Unlock()
			latencies = append(latencies, own...)
			errs = append(errs, err)
		})
	}
	wg.Wait()
	took := time.Since(began)
	if err := errors.Join(errs...); err != nil {
		return nil, 0, err
	}
	if len(latencies) == 0 {
		return nil, 0, errors.New("nothing was sent")
	}
	return latencies, took, nil
}

// percentile is the smallest of values that p percent of them don't exceed. It
// sorts them.
func percentile[T ~int64 | ~float64](values []T, p float64) T {
	slices.Sort(values)
	at := int(p/100*float64(len(values))+0.999999) - 1
	return values[min(max(at, 0), len(values)-1)]
}

// oneCaller serves h over TLS and opens one connection to it.
func oneCaller(t *testing.T, h http.HandlerFunc) *caller {
	t.Helper()
	srv := httptest.NewTLSServer(h)
	t.Cleanup(srv.Close)
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	c, err := dial(target{srv.Listener.Addr().String(), "/tokenreview", authenticated}, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func TestOnlyAYesCounts(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, body string
		code       int
		want       string
	}{
		{"a constant yes counts", constant, 200, ""},
		{"the API server's 201 counts", constant, 201, ""},
		{"a no is an error", `{"status":{"error":"refused"}}`, 200, `answered 200 OK: {"status":{"error":"refused"}}`},
		{"a yes with an error's code is an error", `{"authenticated":true}`, 500, `answered 500 Internal Server Error: {"authenticated":true}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := oneCaller(t, func(w http.ResponseWriter, r *http.Request) {
				if b, err := io.ReadAll(r.Body); err != nil || string(b) != "review" || r.URL.Path != "/tokenreview" {
					t.Errorf("%s with body %q, %v", r.URL.Path, b, err)
				}
				w.WriteHeader(tc.code)
				_, _ = io.WriteString(w, tc.body)
			})
			for range 2 { // and the connection is kept
				got := ""
				if err := c.review([]byte("review")); err != nil {
					got = err.Error()
				}
				if got != tc.want {
					t.Errorf("got %q, want %q", got, tc.want)
				}
			}
		})
	}
}

// TestOpenLoopCountsFromTheScheduledTime holds the first answer back: what was
// due meanwhile had to wait, and its latency says so.
func TestOpenLoopCountsFromTheScheduledTime(t *testing.T) {
	t.Parallel()
	const held = 50 * time.Millisecond
	var once sync.Once
	c := oneCaller(t, func(w http.ResponseWriter, _ *http.Request) {
		once.Do(func() { <-time.After(held) })
		_, _ = io.WriteString(w, constant)
	})
	got, err := openLoop([]*caller{c}, again([][]byte{[]byte("r")}), 1000, 5)
	if err != nil {
		t.Fatal(err)
	}
	if least := percentile(got, 0); len(got) != 5 || least < held-5*time.Millisecond {
		t.Errorf("%d latencies, the least %s: a review that waited behind a held one must not look quick", len(got), least)
	}
}

func TestScheduleHasConstantArrivals(t *testing.T) {
	t.Parallel()
	began := time.Unix(1000, 0)
	var got []time.Duration
	for at := range schedule(began, 1000, 2001) {
		got = append(got, at.Sub(began))
	}
	if len(got) != 2001 || got[0] != 0 || got[1] != time.Millisecond || got[2000] != 2*time.Second {
		t.Errorf("%d arrivals, %s, %s … %s", len(got), got[0], got[1], got[len(got)-1])
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	var hundred []float64
	for i := range 100 {
		hundred = append(hundred, float64(100-i))
	}
	for _, tc := range []struct {
		name   string
		values []float64
		p      float64
		want   float64
	}{
		{"the 99th of a hundred", hundred, 99, 99},
		{"the median of five", []float64{5, 1, 4, 2, 3}, 50, 3},
		{"the maximum", []float64{1, 3, 2}, 100, 3},
		{"the minimum", []float64{2, 1}, 0, 1},
		{"of one value, that", []float64{7}, 50, 7},
	} {
		if got := percentile(tc.values, tc.p); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

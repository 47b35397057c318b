package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	clientcmd "k8s.io/client-go/tools/clientcmd/api/v1"
)

// How much there is to read and to watch on the real API server.
const (
	podsListed    = 5000
	secretsListed = 10_000
	manyWatches   = 5000
	fanOut        = 500
	fanOutEvents  = 40
	readsATurn    = 5
)

const asTable = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"

// realReads are what clients read from the real API server: an answer as it is,
// or a command of kubectl's.
var realReads = []struct {
	name, path, accept string
	zip                bool // the answer comes compressed
	kubectl            []string
}{
	{name: "5,000 pods", path: "/api/v1/pods", accept: "application/json"},
	{name: "10,000 Secrets", path: "/api/v1/secrets", accept: "application/json"},
	{name: "5,000 pods, Table", path: "/api/v1/pods", accept: asTable},
	{name: "10,000 Secrets, Table", path: "/api/v1/secrets", accept: asTable},
	{name: "5,000 pods, gzip", path: "/api/v1/pods", accept: "application/json", zip: true},
	{name: "10,000 Secrets, gzip", path: "/api/v1/secrets", accept: "application/json", zip: true},
	{name: "kubectl get pods", kubectl: []string{"get", "pods", "--all-namespaces"}},
	{name: "kubectl get pods -o yaml", kubectl: []string{"get", "pods", "--all-namespaces", "--output=yaml"}},
}

// The metrics of real reads.
const (
	readTime  = "ms"
	firstByte = "first byte, ms"
	peakMB    = "peak memory above idle, MB"
	watchP50  = "event to 500 watchers: p50, ms"
	watchP99  = "p99, ms"
	watchRSS  = "KB a watch, of 5,000"
	watchAll  = "event to all 5,000: last one, ms"
)

// allowReads lets agents read what is listed and watched.
func (c *controlPlane) allowReads(ctx context.Context) error {
	const rbac = "/apis/rbac.authorization.k8s.io/v1/"
	return errors.Join(
		c.do(ctx, http.MethodPost, rbac+"clusterroles", []byte(`{"metadata":{"name":"reads"},"rules":[{"apiGroups":["*"],"resources":["*"],"verbs":["get","list","watch"]}]}`)),
		c.do(ctx, http.MethodPost, rbac+"clusterrolebindings", []byte(`{"metadata":{"name":"reads"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"reads"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"Group","name":"tipstaff:agents"}]}`)))
}

// fill makes the pods and Secrets, each pod with its status as a node would set it.
func (c *controlPlane) fill(ctx context.Context) error {
	c.client.Transport.(*http.Transport).MaxIdleConnsPerHost = concurrent
	for _, ns := range []string{"prod", "watched"} {
		if err := c.do(ctx, http.MethodPost, "/api/v1/namespaces", fmt.Appendf(nil, `{"metadata":{"name":%q}}`, ns)); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(concurrent)
	for i := range podsListed {
		g.Go(func() error { return c.addPod(ctx, "prod", i) })
	}
	for i := range secretsListed {
		g.Go(func() error {
			var s map[string]any
			if err := json.Unmarshal([]byte("{"+secretJSON(i, 600)+"}"), &s); err != nil {
				return err
			}
			s["metadata"] = map[string]any{"name": fmt.Sprintf("object-%d", i), "labels": map[string]any{"app": "shop"}}
			return c.do(ctx, http.MethodPost, "/api/v1/namespaces/prod/secrets", mustJSON(s))
		})
	}
	g.Go(func() error { return c.addPod(ctx, "watched", 0) })
	return g.Wait()
}

func (c *controlPlane) addPod(ctx context.Context, ns string, i int) error {
	var pod map[string]any
	if err := json.Unmarshal([]byte("{"+podJSON(i, i%50 == 0)+"}"), &pod); err != nil {
		return err
	}
	name := fmt.Sprintf("web-%d", i)
	status := pod["status"]
	delete(pod, "status")
	pod["metadata"] = map[string]any{"name": name, "labels": map[string]any{"app.kubernetes.io/name": "web", "pod-template-hash": "7c9d"}}
	if err := c.do(ctx, http.MethodPost, "/api/v1/namespaces/"+ns+"/pods", mustJSON(pod)); err != nil {
		return err
	}
	return c.as(ctx, http.MethodPatch, "application/merge-patch+json", "/api/v1/namespaces/"+ns+"/pods/"+name+"/status", mustJSON(map[string]any{"status": status}))
}

// reader reads from one side.
type reader struct {
	row    string
	server *server // nil: the API server itself
	target string
	client *http.Client
	token  string
	config string // kubectl's
}

// newReader gives a client of an address.
func newReader(id *identity, row, address, token string, s *server) (*reader, error) {
	r := &reader{row: row, server: s, target: address, token: token, config: filepath.Join(id.dir, "kubeconfig-"+strings.Map(letters, row))}
	r.client = id.httpClient()
	transport := r.client.Transport.(*http.Transport)
	transport.DisableCompression = true // as from one host to another nearby
	transport.MaxIdleConnsPerHost = 2
	if token != "" {
		transport.TLSClientConfig.Certificates = nil
	}
	return r, writeYAML(r.config, kubeconfigOf(id, address, token))
}

// kubeconfigOf is for a token's owner or, without one, for the admin.
func kubeconfigOf(id *identity, address, token string) clientcmd.Config {
	user := clientcmd.AuthInfo{Token: token}
	if token == "" {
		user = clientcmd.AuthInfo{ClientCertificate: certFile(id.dir), ClientKey: keyFile(id.dir)}
	}
	return clientcmd.Config{
		APIVersion: "v1", Kind: "Config", CurrentContext: "bench",
		Clusters:  []clientcmd.NamedCluster{{Name: "bench", Cluster: clientcmd.Cluster{Server: "https://" + address, CertificateAuthority: certFile(id.dir)}}},
		AuthInfos: []clientcmd.NamedAuthInfo{{Name: "bench", AuthInfo: user}},
		Contexts:  []clientcmd.NamedContext{{Name: "bench", Context: clientcmd.Context{Cluster: "bench", AuthInfo: "bench"}}},
	}
}

func letters(r rune) rune {
	if r >= 'a' && r <= 'z' {
		return r
	}
	return -1
}

func (r *reader) open(ctx context.Context, path, accept string, zip bool) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+r.target+path, nil)
	if err != nil {
		return nil, err
	}
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	req.Header.Set("Accept", accept)
	if zip {
		req.Header.Set("Accept-Encoding", "gzip")
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	if zipped := resp.Header.Get("Content-Encoding") == "gzip"; resp.StatusCode != http.StatusOK || zipped != zip {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 600)) // only for the message
		_ = resp.Body.Close()                              // an error already
		return nil, fmt.Errorf("%s: %s, compressed: %t, %q", path, resp.Status, zipped, b)
	}
	return resp, nil
}

// read reads an answer to its end. It says how many bytes, and when the first
// and the last one came.
func (r *reader) read(ctx context.Context, path, accept string, zip bool) (n int64, first, last time.Duration, err error) {
	began := time.Now()
	resp, err := r.open(ctx, path, accept, zip)
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
		return 0, 0, 0, err
	}
	first = time.Since(began)
	n, err = io.Copy(io.Discard, resp.Body)
	return n + 1, first, time.Since(began), err
}

// kubectl runs a command and says how long it took, and how many bytes it printed.
func (r *reader) kubectl(ctx context.Context, args []string) (time.Duration, int, error) {
	cmd := exec.CommandContext(ctx, filepath.Join("..", "bin", "kubectl"), append([]string{"--kubeconfig=" + r.config, "--cache-dir=" + r.config + ".cache"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, 0, fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, &errs)
	}
	return time.Since(began), out.Len(), nil
}

// realRound measures reads and watches of the real API server, through each side in turn.
func (b *proxyBench) realRound(ctx context.Context, round int) (err error) {
	readers := []*reader{}
	direct, err := newReader(b.id, rowDirect, b.cp.apiserver.address, "", nil)
	if err != nil {
		return err
	}
	readers = append(readers, direct)
	for _, side := range []struct{ row, name string }{{rowReverse, "reverse"}, {rowOurs, "proxy"}} {
		s, err := b.start(side.name, b.cp.apiserver.address, "real")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
		r, err := newReader(b.id, side.row, s.address, b.token, s)
		if err != nil {
			return err
		}
		readers = append(readers, r)
	}
	for _, read := range realReads {
		if !wanted(read.name) {
			continue
		}
		firsts, lasts := map[string][]time.Duration{}, map[string][]time.Duration{}
		for turn := range len(readers) {
			for i := range readers {
				r := readers[(i+turn)%len(readers)]
				reads := readsATurn
				if read.kubectl != nil {
					reads = 2 // they take seconds
				}
				for n := range reads {
					first, last, err := b.oneRead(ctx, r, read.path, read.accept, read.zip, read.kubectl)
					if err != nil {
						return fmt.Errorf("%s, %s: %w", r.row, read.name, err)
					}
					if n > 0 { // the first one finds the caches full of another's
						firsts[r.row], lasts[r.row] = append(firsts[r.row], first), append(lasts[r.row], last)
					}
				}
			}
		}
		for _, r := range readers {
			b.r.add(r.row, read.name+": "+readTime, millis(percentile(lasts[r.row], 50)))
			if read.path != "" {
				b.r.add(r.row, read.name+": "+firstByte, millis(percentile(firsts[r.row], 50)))
			}
		}
	}
	for _, r := range readers {
		if !wanted(watchP50) {
			break
		}
		if err := b.fanOut(ctx, r); err != nil {
			return fmt.Errorf("%s: %w", r.row, err)
		}
	}
	if round == 0 && wanted(watchAll) {
		return b.watches(ctx, readers[len(readers)-1])
	}
	return nil
}

func (b *proxyBench) oneRead(ctx context.Context, r *reader, path, accept string, zip bool, kubectl []string) (first, last time.Duration, err error) {
	if kubectl != nil {
		var n int
		last, n, err = r.kubectl(ctx, kubectl)
		if err == nil && n < podsListed*20 {
			err = fmt.Errorf("%d bytes were printed", n)
		}
		return 0, last, err
	}
	n, first, last, err := r.read(ctx, path, accept, zip)
	if err == nil && n < 1e5 {
		err = fmt.Errorf("%d bytes came", n)
	}
	return first, last, err
}

// peaks measures how much memory the proxy takes for large lists above what it holds idle.
func (b *proxyBench) peaks(ctx context.Context) (err error) {
	backend, err := startServer("backend", "-serve.dir="+b.id.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backend.stop()) }()
	for _, list := range []struct{ name, at, path string }{
		{"5,000 pods", b.cp.apiserver.address, "/api/v1/pods"}, {"10,000 Secrets", b.cp.apiserver.address, "/api/v1/secrets"}, {"1 GB of Secrets", backend.address, hugeWorst},
	} {
		s, err := b.start("proxy", list.at, "")
		if err != nil {
			return err
		}
		err = func() error {
			r, err := newReader(b.id, rowOurs, s.address, b.token, s)
			if err != nil {
				return err
			}
			// One of a small one first: connections and pools stand.
			if _, _, _, err := r.read(ctx, "/api/v1/namespaces/prod/secrets/object-1", "application/json", false); err != nil {
				return err
			}
			idle, err := s.rss()
			if err != nil {
				return err
			}
			if err := s.forgetPeak(); err != nil {
				return err
			}
			if _, _, _, err := r.read(ctx, list.path, "application/json", false); err != nil {
				return err
			}
			peak, err := s.peak()
			b.r.add(list.name, peakMB, peak-idle)
			return err
		}()
		if err := errors.Join(err, s.stop()); err != nil {
			return fmt.Errorf("%s: %w", list.name, err)
		}
	}
	return nil
}

// forgetPeak has the process's peak counted anew (proc_pid_clear_refs(5)).
func (s *server) forgetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.cmd.Process.Pid), []byte("5"), 0o600)
}

// peak is the most memory that the process has held, in MB.
func (s *server) peak() (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, found := bytes.Cut(b, []byte("VmHWM:"))
	line, _, _ := bytes.Cut(rest, []byte(" kB"))
	if !found {
		return 0, errors.New("/proc/PID/status has no VmHWM")
	}
	kb, err := strconv.Atoi(string(bytes.TrimSpace(line)))
	return float64(kb) * 1024 / 1e6, err
}

const (
	watchPath  = "/api/v1/namespaces/watched/pods?watch=true"
	watchedPod = "/api/v1/namespaces/watched/pods/web-0"
	stampName  = "bench.tipstaff.dev/at"
)

// watchers are open watches on one pod.
type watchers struct {
	r      *reader
	g      *errgroup.Group
	cancel context.CancelFunc
	got    chan seen
}

// seen is an event that a watch brought.
type seen struct {
	stamp int64 // ns since 1970, when the change was asked for
	after time.Duration
}

// watch opens n watches and returns when each has brought its first event.
func (r *reader) watch(ctx context.Context, n int) (*watchers, error) {
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	w := &watchers{r: r, g: g, cancel: cancel, got: make(chan seen, n*2)}
	opened := make(chan struct{})
	room := make(chan struct{}, 64)
	for range n {
		g.Go(func() error {
			room <- struct{}{}
			resp, err := r.open(ctx, watchPath, "application/json", false)
			if err != nil {
				return err
			}
			defer func() { _ = resp.Body.Close() }() // cut
			lines := bufio.NewReaderSize(resp.Body, 8<<10)
			for first := true; ; first = false {
				line, err := lines.ReadBytes('\n')
				now := time.Now()
				if err != nil {
					return err
				}
				if first {
					<-room
					select {
					case opened <- struct{}{}:
						continue
					case <-ctx.Done():
						return ctx.Err()
					}
				}
				stamp, err := stampOf(line)
				if err != nil {
					return err
				}
				w.got <- seen{stamp, now.Sub(time.Unix(0, stamp))}
			}
		})
	}
	for range n {
		select {
		case <-opened:
		case <-ctx.Done():
			cancel()
			return nil, errors.Join(ctx.Err(), g.Wait())
		}
	}
	return w, nil
}

// stampOf reads when an event's change was asked for.
func stampOf(line []byte) (int64, error) {
	_, rest, found := bytes.Cut(line, []byte(`"`+stampName+`":"`))
	digits, _, closed := bytes.Cut(rest, []byte(`"`))
	if !found || !closed {
		return 0, fmt.Errorf("no stamp in %.300s", line)
	}
	return strconv.ParseInt(string(digits), 10, 64)
}

// next gives how long an event took to each of n watches.
func (w *watchers) next(ctx context.Context, cp *controlPlane, n int) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	stamp := time.Now().UnixNano()
	if err := cp.as(ctx, http.MethodPatch, "application/merge-patch+json", watchedPod,
		fmt.Appendf(nil, `{"metadata":{"annotations":{%q:"%d"}}}`, stampName, stamp)); err != nil {
		return nil, err
	}
	var all []time.Duration
	for len(all) < n {
		select {
		case s := <-w.got:
			if s.stamp != stamp {
				return nil, errors.New("a watch brought another event")
			}
			all = append(all, s.after)
		case <-ctx.Done():
			return nil, fmt.Errorf("%d of %d watches brought the event: %w", len(all), n, ctx.Err())
		}
	}
	return all, nil
}

// close ends the watches.
func (w *watchers) close() {
	w.cancel()
	_ = w.g.Wait() // cut
	w.r.client.CloseIdleConnections()
}

// fanOut measures how long an event takes to many watchers.
func (b *proxyBench) fanOut(ctx context.Context, r *reader) error {
	w, err := r.watch(ctx, fanOut)
	if err != nil {
		return err
	}
	defer w.close()
	var all []time.Duration
	for n := range fanOutEvents {
		took, err := w.next(ctx, b.cp, fanOut)
		if err != nil {
			return err
		}
		if n >= 5 {
			all = append(all, took...)
		}
	}
	b.r.add(r.row, watchP50, millis(percentile(all, 50)))
	b.r.add(r.row, watchP99, millis(percentile(all, 99)))
	return nil
}

// watches opens thousands through the proxy, and has an event reach each.
func (b *proxyBench) watches(ctx context.Context, r *reader) error {
	before, err := r.server.rss()
	if err != nil {
		return err
	}
	w, err := r.watch(ctx, manyWatches)
	if err != nil {
		return err
	}
	defer w.close()
	for range 3 {
		took, err := w.next(ctx, b.cp, manyWatches)
		if err != nil {
			return err
		}
		b.r.add(r.row, watchAll, millis(slices.Max(took)))
	}
	after, err := r.server.rss()
	b.r.add(r.row, watchRSS, (after-before)*1e3/manyWatches)
	return err
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

func TestStampOf(t *testing.T) {
	t.Parallel()
	got, err := stampOf([]byte(`{"type":"MODIFIED","object":{"metadata":{"annotations":{"bench.tipstaff.dev/at":"1763980000000000001"}}}}`))
	if err != nil || got != 1763980000000000001 {
		t.Errorf("%d, %v", got, err)
	}
	for _, line := range []string{`{}`, `{"bench.tipstaff.dev/at":"17`, `{"bench.tipstaff.dev/at":"x"}`} {
		if _, err := stampOf([]byte(line)); err == nil {
			t.Errorf("%s was taken", line)
		}
	}
}

func TestThePeakCanBeMeasured(t *testing.T) {
	t.Parallel()
	self := &server{cmd: &exec.Cmd{Process: &os.Process{Pid: os.Getpid()}}}
	if mb, err := self.peak(); err != nil || mb < 1 {
		t.Errorf("%v MB, %v", mb, err)
	}
}

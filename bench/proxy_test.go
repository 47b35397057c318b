package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/tipstaff-dev/tipstaff/internal/httpserve"
	"github.com/tipstaff-dev/tipstaff/mask"
	"github.com/tipstaff-dev/tipstaff/proxy"
)

// The bodies that the backend answers with, by path.
const (
	smallWorst   = "/api/v1/namespaces/prod/secrets/object-1"
	smallTypical = "/api/v1/namespaces/prod/services/web-1"
	largeWorst   = "/api/v1/secrets"
	largeTypical = "/api/v1/pods"
	hugeWorst    = "/api/v1/namespaces/huge/secrets"
)

const (
	proxyPassword = "swordfish-PLANTED"
	mebibyte      = 1 << 20
)

func podJSON(i int, marked bool) string {
	env := fmt.Sprintf(`{"name":"LOG_LEVEL","value":"info"},{"name":"DB","value":"db-%d.svc"}`, i)
	if marked {
		env += `,{"name":"DB_PASSWORD","value":"` + proxyPassword + `"}`
	}
	return fmt.Sprintf(`"metadata":{"name":"web-%[1]d","generateName":"web-7c9d-","namespace":"prod","uid":"6e9bb1c8-0000-4000-8000-%012[1]d","resourceVersion":"%[1]d","creationTimestamp":"%[4]s","labels":{"app.kubernetes.io/name":"web","pod-template-hash":"7c9d"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-7c9d","uid":"a4a062ca-bde5-4599-b11b-1cd45ec9c7ca","controller":true,"blockOwnerDeletion":true}],"managedFields":[{"manager":"kube-controller-manager","operation":"Update","apiVersion":"v1","time":"%[4]s","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:generateName":{},"f:labels":{".":{},"f:app.kubernetes.io/name":{},"f:pod-template-hash":{}},"f:ownerReferences":{".":{},"k:{\"uid\":\"a4a062ca-bde5-4599-b11b-1cd45ec9c7ca\"}":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"app\"}":{".":{},"f:env":{".":{},"k:{\"name\":\"DB\"}":{".":{},"f:name":{},"f:value":{}}},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:resources":{}}},"f:dnsPolicy":{},"f:restartPolicy":{}}}}]},`+
		`"spec":{"volumes":[{"name":"kube-api-access-%05[1]d","projected":{"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}},{"configMap":{"name":"kube-root-ca.crt","items":[{"key":"ca.crt","path":"ca.crt"}]}}],"defaultMode":420}}],"containers":[{"name":"app","image":"registry.example.com/web@sha256:0d17b565c37bcbd895e9d92315a05c1c3c9a29f762b011a10c54a66cd53c9b31","args":["--port=8080","--log=json"],"env":[%[2]s],"resources":{"limits":{"cpu":"500m","memory":"512Mi"}},"volumeMounts":[{"name":"kube-api-access-%05[1]d","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}],"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"default","nodeName":"node-%[1]d","schedulerName":"default-scheduler"},`+
		`"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True","lastProbeTime":null,"lastTransitionTime":"%[4]s"}],"hostIP":"10.0.0.1","podIP":"%[3]s","startTime":"%[4]s","containerStatuses":[{"name":"app","state":{"running":{"startedAt":"%[4]s"}},"ready":true,"restartCount":0,"image":"web","imageID":"registry.example.com/web@sha256:0d17b565c37bcbd895e9d92315a05c1c3c9a29f762b011a10c54a66cd53c9b31","containerID":"containerd://%[5]x"}]}`, i, env, fmt.Sprintf("10.1.%d.%d", i/250, i%250), time.Date(2026, 11, 22, 23, 43, i/3, 0, time.UTC).Format(time.RFC3339), sha256.Sum256(fmt.Append(nil, i)))
}

func secretJSON(i int, size int) string {
	value := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s-%d-%s", proxyPassword, i, strings.Repeat("k7", size/2)))
	return fmt.Sprintf(`"metadata":{"name":"object-%[1]d","namespace":"prod","uid":"6e9bb1c8-0000-4000-8000-%012[1]d","resourceVersion":"%[1]d","creationTimestamp":"2026-11-22T23:43:11Z","labels":{"app":"shop"},"managedFields":[{"manager":"kubectl","operation":"Update","apiVersion":"v1","time":"2026-11-22T23:43:11Z","fieldsType":"FieldsV1","fieldsV1":{"f:data":{".":{},"f:password":{}},"f:type":{}}}]},"data":{"password":"%[2]s"},"type":"Opaque"`, i, value)
}

// proxyBodies are what the backend answers.
func proxyBodies() map[string][]byte {
	list := func(kind string, item func(i int) string) []byte {
		var b bytes.Buffer
		fmt.Fprintf(&b, `{"kind":"%sList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[`, kind)
		for i := 0; b.Len() < mebibyte; i++ {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString("{" + item(i) + "}")
		}
		b.WriteString("]}\n")
		return b.Bytes()
	}
	return map[string][]byte{
		smallWorst:   []byte(`{"kind":"Secret","apiVersion":"v1",` + secretJSON(1, 340) + "}\n"),
		smallTypical: []byte(`{"kind":"Service","apiVersion":"v1","metadata":{"name":"web-1","namespace":"prod","uid":"6e9bb1c8-0000-4000-8000-000000000001","resourceVersion":"1","creationTimestamp":"2026-11-22T23:43:11Z","labels":{"app":"shop"},"managedFields":[{"manager":"kubectl","operation":"Update","apiVersion":"v1","time":"2026-11-22T23:43:11Z","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:internalTrafficPolicy":{},"f:ports":{".":{},"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{},"f:protocol":{},"f:targetPort":{}}},"f:selector":{},"f:sessionAffinity":{},"f:type":{}}}}]},"spec":{"ports":[{"name":"http","protocol":"TCP","port":80,"targetPort":8080}],"selector":{"app":"shop"},"clusterIP":"10.96.0.17","clusterIPs":["10.96.0.17"],"type":"ClusterIP","sessionAffinity":"None","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","internalTrafficPolicy":"Cluster"},"status":{"loadBalancer":{}}}` + "\n"),
		largeWorst:   list("Secret", func(i int) string { return secretJSON(i, 600) }),
		largeTypical: list("Pod", func(i int) string { return podJSON(i, i%50 == 0) }),
	}
}

// serveBackend stands in for the API server's answers.
func serveBackend() http.Handler {
	bodies := proxyBodies()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := bodies[r.URL.Path]
		if r.URL.Path == hugeWorst {
			w.Header().Set("Content-Type", "application/json")
			serveHuge(w)
			return
		}
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body) // the caller has gone
	})
}

// serveHuge gives a list of a gigabyte.
func serveHuge(w io.Writer) {
	var block bytes.Buffer
	for i := range 1000 {
		block.WriteString(",{" + secretJSON(i, 600) + "}")
	}
	_, err := fmt.Fprintf(w, `{"kind":"SecretList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[{%s}`, secretJSON(0, 600))
	for n := 0; n < 1e9 && err == nil; n += block.Len() {
		_, err = w.Write(block.Bytes())
	}
	_, _ = io.WriteString(w, "]}\n") // the caller may have gone
}

// bufferPool lends the buffers of a bare reverse proxy.
type bufferPool chan []byte

func (p bufferPool) Get() []byte {
	select {
	case b := <-p:
		return b
	default:
		return make([]byte, 32<<10)
	}
}

func (p bufferPool) Put(b []byte) {
	select {
	case p <- b:
	default:
	}
}

// serveReverse is a reverse proxy that does nothing else, tuned.
func serveReverse(id *identity, backend string) http.Handler {
	rp := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: backend})
	rp.Transport = &http.Transport{TLSClientConfig: id.client(), MaxIdleConnsPerHost: 256, MaxIdleConns: 256, DisableCompression: true}
	rp.BufferPool = make(bufferPool, 64)
	return rp
}

// serveProxy serves the product's own proxy as `tipstaff serve` does.
func serveProxy(ctx context.Context, g *errgroup.Group, l net.Listener, backend string) error {
	httpserve.RelaxGC()
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	cfg, auth, revoked, err := authenticator(log)
	if err != nil {
		return err
	}
	masker, err := mask.New(bytes.Repeat([]byte{1}, 32))
	if err != nil {
		return err
	}
	p, err := proxy.New(proxy.Config{}, &rest.Config{Host: "https://" + backend, QPS: -1, TLSClientConfig: rest.TLSClientConfig{
		CAFile: certFile(*serveDir), CertFile: certFile(*serveDir), KeyFile: keyFile(*serveDir),
	}}, auth, revoked, masker, log)
	if err != nil {
		return err
	}
	tls := cfg.TLS
	tls.ClientCAFile, tls.ClientNames = "", nil
	srv := &httpserve.Server{Name: "proxy", TLS: tls, Handler: p.Handler(), HTTP2: true, Log: log}
	g.Go(func() error { return revoked.Run(ctx) })
	g.Go(func() error { return auth.Run(ctx) })
	g.Go(func() error { return srv.Serve(ctx, l) })
	<-auth.Tried()
	return until(ctx, func() error {
		if !revoked.HasSynced() {
			return errors.New("the revocations are not known")
		}
		return nil
	})
}

// getter makes a caller that asks for path, over and over.
func getters(n int, s *server, id *identity, path, token string) ([]*caller, error) {
	conns, err := callers(n, target{address: s.address, path: path}, id.client())
	for _, c := range conns {
		c.r = bufio.NewReaderSize(c.conn, 64<<10)
		c.get = fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAccept: application/json\r\nAuthorization: Bearer %s\r\n\r\n", path, s.address, token)
	}
	return conns, err
}

// fetch gives the answer as it is.
func fetch(s *server, id *identity, path, token string) ([]byte, error) {
	req, err := http.NewRequest(http.MethodGet, "https://"+s.address+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := id.httpClient().Do(req)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s %.300s", path, resp.Status, b)
	}
	return b, nil
}

const (
	rowDirect  = "(a) the backend itself"
	rowReverse = "(b) a bare httputil.ReverseProxy"
	rowRBAC    = "(c) kube-rbac-proxy"
	rowOurs    = "tipstaff"
)

var proxyBodiesNamed = []struct {
	name, path string
	rate       int // of the open loop, a second: one that all hold
}{
	{"1 KB, worst", smallWorst, 500}, {"1 KB, typical", smallTypical, 500}, {"1 MB, worst", largeWorst, 50}, {"1 MB, typical", largeTypical, 50},
}

// The metrics.
const (
	getCPU   = "CPU, µs an answer"
	getOne   = "answers/s, one caller"
	getMany  = "answers/s, 16 callers"
	getMore  = "answers/s, 64 callers"
	getP50   = "p50 of one caller, µs"
	getP99   = "p99 of 16 callers, µs"
	openP50  = "open loop: p50, µs"
	openP99  = "open loop: p99, µs"
	openTime = 2 * time.Second
)

// kube-oidc-proxy against (b), as both were once measured side by side on a
// machine of two cores, 16 callers. It has no published module to build here.
const oidcProxySmall, oidcProxyLarge = 1410.0 / 11400, 470.0 / 790

// proxyBench is what the rounds share.
type proxyBench struct {
	id    *identity
	cp    *controlPlane
	url   string // the platform's
	token string
	out   string
	r     *results
}

// proxyScenario measures reads through the proxy, in interleaved rounds.
func proxyScenario(out string) (err error) {
	runtime.LockOSThread() // never unlocked: the parts die with this thread
	// The open loop's clock sits in a system call most of the time.
	runtime.GOMAXPROCS(runtime.NumCPU() + 1)
	ctx := context.Background()
	dir, err := filepath.Abs(filepath.Join(out, "run"))
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	id, err := newIdentity(dir)
	if err != nil {
		return err
	}
	p, err := newPlatform(id)
	if err != nil {
		return err
	}
	if err := writeAuthn(dir, p.url); err != nil {
		return err
	}
	say("starting etcd and kube-apiserver")
	cp, err := startControlPlane(ctx, id, p, "--disable-admission-plugins=ServiceAccount")
	if cp != nil {
		defer func() { err = errors.Join(err, cp.stop()) }()
	}
	if err != nil {
		return err
	}
	say("making %d pods and %d Secrets", podsListed, secretsListed)
	if err := errors.Join(cp.addRevocations(ctx), cp.allowReads(ctx), cp.fill(ctx)); err != nil {
		return err
	}
	tokens, err := p.tokens("RS256", 1)
	if err != nil {
		return err
	}
	b := &proxyBench{id: id, cp: cp, url: p.url, token: tokens[0], out: out, r: &results{}}
	if wanted(peakMB) {
		say("memory of large lists")
		if err := b.peaks(ctx); err != nil {
			return err
		}
	}
	for round := range *scenarioRounds {
		say("round %d of %d", round+1, *scenarioRounds)
		if err := b.round(); err != nil {
			return err
		}
		if err := b.realRound(ctx, round); err != nil {
			return err
		}
	}
	var goals []goal
	if scenarioOnly.String() == "" { // else there is not all that they compare
		goals = append(b.smallGoals(), b.realGoals()...)
	}
	text := report("Reads through the proxy", fmt.Sprintf("%d cores for clients and servers together, %s. %d interleaved rounds; TLS 1.3 on both sides, kept-alive HTTP/1.1 from the clients, servers in processes of their own, the token verified and its revocation asked at each request. "+
		"Worst: every object has something to mask; typical: one pod in fifty, and nothing in the small one, a Service. kube-rbac-proxy is v0.18.0 with the same tokens and a static permission; kube-oidc-proxy is (b) of the same round times its ratio to it, measured once elsewhere. Neither masks anything. "+
		"Lists and watches are a real API server's; between it and tipstaff answers come over HTTP/1.1, compressed where it does that, and watches over HTTP/2. The server in each process is this bench's binary with the product's own proxy and HTTPS server.",
		runtime.NumCPU(), runtime.Version(), *scenarioRounds), b.r, proxyTables(), goals, "")
	j, err := json.MarshalIndent(map[string]any{"rows": b.r.Rows, "goals": goals}, "", " ")
	if err != nil {
		return err
	}
	fmt.Println(text)
	return errors.Join(
		os.WriteFile(filepath.Join(out, "proxy.md"), []byte(text), 0o600),
		os.WriteFile(filepath.Join(out, "proxy.json"), j, 0o600))
}

func proxyTables() (all [][]string) {
	for _, b := range proxyBodiesNamed {
		var table []string
		for _, m := range []string{getCPU, getOne, getP50, getMany, getP99, getMore, openP50, openP99} {
			table = append(table, b.name+": "+m)
		}
		all = append(all, table)
	}
	for _, read := range realReads {
		table := []string{read.name + ": " + readTime}
		if read.path != "" {
			table = append(table, read.name+": "+firstByte)
		}
		all = append(all, table)
	}
	return append(all, []string{watchP50, watchP99}, []string{watchAll, watchRSS}, []string{peakMB})
}

// against gives what f makes of two rows' values of a metric, round by round.
func (b *proxyBench) against(metric, row, other string, f func(v, w float64) float64) (all []float64) {
	for i, v := range b.r.values(row, metric) {
		all = append(all, f(v, b.r.values(other, metric)[i]))
	}
	return all
}

func ratio(v, w float64) float64 { return v / w }
func minus(v, w float64) float64 { return v - w }

// smallGoals are those of the stand-in's answers.
func (b *proxyBench) smallGoals() (goals []goal) {
	for _, body := range proxyBodiesNamed {
		share, oidc := 0.7, oidcProxySmall
		if strings.HasPrefix(body.name, "1 MB") {
			share, oidc = 0.6, oidcProxyLarge
		}
		at := func(metric string) string { return body.name + ": " + metric }
		goals = append(goals,
			goal{at("CPU ÷ (c)'s"), b.against(at(getCPU), rowOurs, rowRBAC, ratio), true, 1},
			goal{at("answers/s of 16 callers ÷ (b)'s"), b.against(at(getMany), rowOurs, rowReverse, ratio), false, share},
			goal{at("answers/s of 16 callers ÷ (c)'s"), b.against(at(getMany), rowOurs, rowRBAC, ratio), false, 1},
			goal{at("answers/s of 16 callers ÷ kube-oidc-proxy's"), b.against(at(getMany), rowOurs, rowReverse, func(v, w float64) float64 { return v / w / oidc }), false, 1},
			goal{at("answers/s of one caller ÷ (b)'s"), b.against(at(getOne), rowOurs, rowReverse, ratio), false, share},
			goal{at("answers/s of one caller ÷ (c)'s"), b.against(at(getOne), rowOurs, rowRBAC, ratio), false, 1},
			goal{at("open loop p99 ÷ (c)'s"), b.against(at(openP99), rowOurs, rowRBAC, ratio), true, 1})
	}
	return goals
}

// realGoals are those of the real API server's lists and watches.
func (b *proxyBench) realGoals() (goals []goal) {
	for _, read := range realReads {
		goals = append(goals, goal{read.name + ": time ÷ (b)'s", b.against(read.name+": "+readTime, rowOurs, rowReverse, ratio), true, 1.1})
		if read.path != "" {
			goals = append(goals, goal{read.name + ": first byte later than (b)'s, ms", b.against(read.name+": "+firstByte, rowOurs, rowReverse, minus), true, 5})
		}
	}
	goals = append(goals, goal{"event to 500 watchers: p99 later than (b)'s, ms", b.against(watchP99, rowOurs, rowReverse, minus), true, 2})
	for _, s := range b.r.Rows {
		if s.Metric == peakMB {
			goals = append(goals, goal{s.Row + ": " + peakMB, s.Values, true, 64})
		}
	}
	return goals
}

// start starts a server in front of a backend. With profile, and if profiles are
// asked for, it writes one.
func (b *proxyBench) start(name, backend, profile string) (*server, error) {
	args := []string{"-serve.dir=" + b.id.dir, "-serve.kube=" + b.cp.url, "-serve.backend=" + backend}
	if name == "proxy" && profile != "" && *scenarioProfile {
		args = append(args, "-serve.cpuprofile="+filepath.Join(b.out, "proxy-"+profile+".pprof"))
	}
	return startServer(name, args...)
}

// startRBACProxy starts kube-rbac-proxy, which verifies the same tokens and lets
// every read pass.
func (b *proxyBench) startRBACProxy(backend string) (*server, error) {
	ports, err := freeAddresses(1)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(b.id.dir, "kube-rbac-proxy.yaml")
	kubeconfig := filepath.Join(b.id.dir, "kube-rbac-proxy.kubeconfig")
	if err := errors.Join(
		writeYAML(config, map[string]any{"authorization": map[string]any{
			"resourceAttributes": map[string]any{"resource": "objects"},
			"static":             []any{map[string]any{"resourceRequest": true, "resource": "objects", "verb": "get"}},
		}}),
		writeYAML(kubeconfig, kubeconfigOf(b.id, b.cp.apiserver.address, ""))); err != nil {
		return nil, err
	}
	s, err := startPart(b.id.dir, "peers/kube-rbac-proxy",
		"--secure-listen-address="+ports[0], "--upstream=https://"+backend, "--upstream-ca-file="+certFile(b.id.dir),
		"--tls-cert-file="+certFile(b.id.dir), "--tls-private-key-file="+keyFile(b.id.dir),
		"--oidc-issuer="+b.url, "--oidc-clientID="+audience, "--oidc-ca-file="+certFile(b.id.dir), "--oidc-username-claim=sub",
		"--kubeconfig="+kubeconfig, "--config-file="+config, "--v=0")
	if err != nil {
		return nil, err
	}
	s.target = target{ports[0], "", ""}
	if err := until(context.Background(), func() error {
		_, err := fetch(s, b.id, smallTypical, b.token)
		return err
	}); err != nil {
		log, _ := os.ReadFile(logFile(b.id.dir, "peers/kube-rbac-proxy")) // only for the message
		return nil, fmt.Errorf("kube-rbac-proxy: %w; the end of its log:\n%s", errors.Join(err, s.stop()), log[max(0, len(log)-2000):])
	}
	return s, nil
}

func (b *proxyBench) round() (err error) {
	backend, err := startServer("backend", "-serve.dir="+b.id.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backend.stop()) }()
	servers := map[string]*server{rowDirect: backend}
	for _, row := range []string{rowReverse, rowRBAC, rowOurs} {
		var s *server
		switch row {
		case rowReverse:
			s, err = b.start("reverse", backend.address, "")
		case rowRBAC:
			s, err = b.startRBACProxy(backend.address)
		case rowOurs:
			s, err = b.start("proxy", backend.address, "small")
		}
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
		servers[row] = s
	}
	bodies := proxyBodies()
	for _, body := range proxyBodiesNamed {
		if !wanted(body.name) {
			continue
		}
		for _, row := range []string{rowDirect, rowReverse, rowRBAC, rowOurs} {
			s := servers[row]
			if err := proxyWork(s, b.id, body.path, b.token, bodies[body.path], row == rowOurs); err != nil {
				return fmt.Errorf("%s, %s: %w", row, body.name, err)
			}
			if err := b.row(s, body.name, body.path, row, body.rate); err != nil {
				return fmt.Errorf("%s, %s: %w", row, body.name, err)
			}
		}
	}
	return nil
}

// wanted reports whether a row is to be measured.
func wanted(name string) bool { return scenarioOnly.MatchString(name) }

// proxyWork proves that the work is done before it is timed.
func proxyWork(s *server, id *identity, path, token string, body []byte, masked bool) error {
	got, err := fetch(s, id, path, token)
	if err != nil {
		return err
	}
	if !masked {
		if !bytes.Equal(got, body) {
			return errors.New("the answer is not the backend's")
		}
		return nil
	}
	var before, after any
	if err := errors.Join(json.Unmarshal(body, &before), json.Unmarshal(got, &after)); err != nil {
		return err
	}
	marks, err := marksOnly(before, after)
	if err == nil && marks == 0 && path != smallTypical {
		err = errors.New("nothing is masked")
	}
	return err
}

// marksOnly says where after has something else than before, but for a mark in
// the place of a planted value, and counts those.
func marksOnly(before, after any) (marks int, err error) {
	switch b := before.(type) {
	case map[string]any:
		a, ok := after.(map[string]any)
		if !ok || len(a) != len(b) {
			return 0, errors.New("an object has other members")
		}
		for k, v := range b {
			n, err := marksOnly(v, a[k])
			if err != nil {
				return 0, fmt.Errorf("%s: %w", k, err)
			}
			marks += n
		}
		return marks, nil
	case []any:
		a, ok := after.([]any)
		if !ok || len(a) != len(b) {
			return 0, errors.New("a list has another length")
		}
		for i, v := range b {
			n, err := marksOnly(v, a[i])
			if err != nil {
				return 0, fmt.Errorf("%d: %w", i, err)
			}
			marks += n
		}
		return marks, nil
	case string:
		plain, err := base64.StdEncoding.DecodeString(b)
		planted := strings.HasPrefix(b, proxyPassword) || err == nil && strings.HasPrefix(string(plain), proxyPassword)
		text, _ := after.(string)
		if isMark := mask.HasMark(text); planted != isMark || !planted && text != b {
			return 0, fmt.Errorf("%q became %q", b, text)
		}
		if planted {
			return 1, nil
		}
		return 0, nil
	}
	if before != after {
		return 0, fmt.Errorf("%v became %v", before, after)
	}
	return 0, nil
}

func TestMarksOnly(t *testing.T) {
	t.Parallel()
	parse := func(s string) (v any) {
		if err := json.Unmarshal([]byte(s), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	in := parse(`{"a":"` + proxyPassword + `-1","b":["x",1,null]}`)
	for after, ok := range map[string]bool{
		`{"a":"tipstaff-masked-0123456789abcdef0123","b":["x",1,null]}`: true,
		`{"a":"` + proxyPassword + `-1","b":["x",1,null]}`:              false,
		`{"a":"tipstaff-masked-0123456789abcdef0123","b":["y",1,null]}`: false,
		`{"a":"tipstaff-masked-0123456789abcdef0123","b":["x",2,null]}`: false,
		`{"c":"tipstaff-masked-0123456789abcdef0123","b":["x",1,null]}`: false,
		`{"a":"","b":["x",1,null]}`:                                     false,
	} {
		if _, err := marksOnly(in, parse(after)); (err == nil) != ok {
			t.Errorf("%s: %v", after, err)
		}
	}
}

// row measures a body through a server.
func (b *proxyBench) row(s *server, name, path, row string, rate int) error {
	conns, err := getters(4*concurrent, s, b.id, path, b.token)
	for _, c := range conns {
		defer c.close()
	}
	if err != nil {
		return err
	}
	next := again([][]byte{nil})
	if _, _, err := closedLoop(conns, next, 300*time.Millisecond); err != nil {
		return err
	}
	before, err := s.cpu()
	if err != nil {
		return err
	}
	many, took, err := closedLoop(conns[:concurrent], next, closedTime)
	if err != nil {
		return err
	}
	after, err := s.cpu()
	if err != nil {
		return err
	}
	more, moreTook, err := closedLoop(conns, next, closedTime/2)
	if err != nil {
		return err
	}
	one, oneTook, err := closedLoop(conns[:1], next, closedTime/2)
	if err != nil {
		return err
	}
	open, err := openLoop(conns, next, rate, int(openTime.Seconds()*float64(rate)))
	if err != nil {
		return err
	}
	for metric, v := range map[string]float64{
		getCPU: micros(after-before) / float64(len(many)),
		getOne: float64(len(one)) / oneTook.Seconds(), getP50: micros(percentile(one, 50)),
		getMany: float64(len(many)) / took.Seconds(), getP99: micros(percentile(many, 99)),
		getMore: float64(len(more)) / moreTook.Seconds(),
		openP50: micros(percentile(open, 50)), openP99: micros(percentile(open, 99)),
	} {
		b.r.add(row, name+": "+metric, v)
	}
	return nil
}

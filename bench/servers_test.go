package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/tipstaff-dev/tipstaff/authn"
	"github.com/tipstaff-dev/tipstaff/internal/access"
	"github.com/tipstaff-dev/tipstaff/internal/httpserve"
)

// The test binary is three programs: the tests and benchmarks, the scenarios, and
// the servers that the scenarios start as processes of their own, so that each
// one's CPU and memory can be read.
var (
	scenarioDir     = flag.String("scenario", "", "run the token-review scenario and write its results to this `folder`")
	admissionDir    = flag.String("admission", "", "run the admission scenario and write its results to this `folder`")
	proxyDir        = flag.String("proxy", "", "run the proxy scenario and write its results to this `folder`")
	serveBackendAt  = flag.String("serve.backend", "", "the backend's `address`")
	admissionPeers  = flag.Bool("admission.peers", true, "with Gatekeeper and Kyverno")
	scenarioRounds  = flag.Int("scenario.rounds", 5, "how many rounds")
	scenarioOnly    = pattern("scenario.only", "of the proxy scenario measure only the rows whose names match this `pattern`, and no goals")
	scenarioTokens  = flag.Int("scenario.tokens", 300_000, "how many different tokens the memory row sends; 0 leaves it out")
	scenarioProfile = flag.Bool("scenario.profile", false, "write tipstaff's CPU profiles of the last round beside the results")
	serveName       = flag.String("serve", "", "be a server of a scenario: limit, empty or tipstaff")
	serveDir        = flag.String("serve.dir", "", "the scenario's `folder` of certificates and configuration")
	serveKube       = flag.String("serve.kube", "", "the API server's `URL`")
	serveCPU        = flag.String("serve.cpuprofile", "", "write the server's CPU profile to this `file`")
)

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	switch {
	case *serveName != "":
		err = serve()
	case *scenarioDir != "":
		err = scenario(*scenarioDir)
	case *proxyDir != "":
		err = proxyScenario(*proxyDir)
	case *admissionDir != "":
		err = admissionScenario(*admissionDir)
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// serve is the child's side: it says its address on stdout and answers until
// stdin closes, which it does when the bench ends, however that ends.
func serve() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	switch *serveName {
	case "limit", "empty", "backend", "reverse":
		handler, err := plainHandler()
		if err != nil {
			return err
		}
		// As tipstaff's, and as an API server calls a webhook that isn't on its own host.
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true)
		srv := &http.Server{Handler: handler, Protocols: protocols}
		g.Go(func() error {
			if err := srv.ServeTLS(l, certFile(*serveDir), keyFile(*serveDir)); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			return srv.Close()
		})
	case "tipstaff":
		if err := serveTipstaff(ctx, g, l); err != nil {
			return err
		}
	case "proxy":
		if err := serveProxy(ctx, g, l, *serveBackendAt); err != nil {
			return err
		}
	default:
		return fmt.Errorf("-serve=%s: limit, empty, tipstaff, backend, reverse or proxy", *serveName)
	}
	if *serveCPU != "" {
		f, err := os.Create(*serveCPU)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	fmt.Println(l.Addr())
	g.Go(func() error {
		_, _ = io.Copy(io.Discard, os.Stdin) // to its end, or it is broken: both mean that we're done
		cancel()
		return nil
	})
	return g.Wait()
}

// limit is the least that a token webhook does: decode the review, answer.
func limit(w http.ResponseWriter, r *http.Request) {
	var review authenticationv1.TokenReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Spec.Token == "" {
		http.Error(w, "no TokenReview", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, constant) // the caller has gone
}

// constant is what tipstaff answers to the scenario's tokens, one of them.
const constant = `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","metadata":{},"spec":{},"status":{"authenticated":true,` +
	`"user":{"username":"agent:platform:repo:example/shop:environment:production",` +
	`"groups":["tipstaff:agents","tipstaff:profile:deploy","tipstaff:run:platform:run-00000001"],` +
	`"extra":{"authentication.kubernetes.io/credential-id":["JTI=token-00000001"],"tipstaff.dev/issuer":["platform"],"tipstaff.dev/model":["some-model-4.5"],` +
	`"tipstaff.dev/owner":["alice@example.com"],"tipstaff.dev/run":["run-00000001"],"tipstaff.dev/task":["bring the deployment to the release of this week"]}},` +
	`"audiences":["tipstaff"]}}`

// serveTipstaff serves the product's own handler as `tipstaff serve` does: its
// HTTPS server with client certificates, and the revocations of a real API server.
func serveTipstaff(ctx context.Context, g *errgroup.Group, l net.Listener) error {
	httpserve.RelaxGC() // as `tipstaff serve` does
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	cfg, auth, revoked, err := authenticator(log)
	if err != nil {
		return err
	}
	srv := &httpserve.Server{Name: "authn", TLS: cfg.TLS, BodyTimeout: 30 * time.Second, Handler: auth.Handler(), Log: log}
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

// authenticator is the product's own, as the folder's configuration has it, with
// the revocations of a real API server.
func authenticator(log *slog.Logger) (cfg authn.Config, auth *authn.Authenticator, revoked *authn.Revocations, err error) {
	klog.SetSlogLogger(log)
	b, err := os.ReadFile(filepath.Join(*serveDir, "authn.json"))
	if err != nil {
		return cfg, nil, nil, err
	}
	if err := json.Unmarshal(b, &cfg); err != nil {
		return cfg, nil, nil, err
	}
	revoked, err = authn.NewRevocations(&rest.Config{Host: *serveKube, TLSClientConfig: rest.TLSClientConfig{
		CAFile: certFile(*serveDir), CertFile: certFile(*serveDir), KeyFile: keyFile(*serveDir),
	}}, log)
	if err != nil {
		return cfg, nil, nil, err
	}
	auth, err = authn.New(cfg, access.Limits{}, revoked, nil, log)
	return cfg, auth, revoked, err
}

// plainHandler is what a server does that is no part of the product.
func plainHandler() (http.Handler, error) {
	switch *serveName {
	case "backend":
		return serveBackend(), nil
	case "reverse":
		pem, err := os.ReadFile(certFile(*serveDir))
		if err != nil {
			return nil, err
		}
		id := &identity{dir: *serveDir, pool: x509.NewCertPool()}
		id.pool.AppendCertsFromPEM(pem)
		if id.cert, err = tls.LoadX509KeyPair(certFile(*serveDir), keyFile(*serveDir)); err != nil {
			return nil, err
		}
		return serveReverse(id, *serveBackendAt), nil
	case "empty":
		return http.HandlerFunc(emptyWebhook), nil
	}
	return http.HandlerFunc(limit), nil
}

// until asks check every 20 ms, for a minute at most, until it says nil.
func until(ctx context.Context, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// server is a server's process, seen from the bench.
type server struct {
	target
	cmd   *exec.Cmd
	stdin io.Closer // nil where closing it ends nothing
}

// startServer starts this binary as a server.
func startServer(name string, args ...string) (*server, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &server{cmd: exec.Command(exe, append([]string{"-serve=" + name}, args...)...)}
	s.cmd.Stderr = os.Stderr
	stdin, err := s.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		_ = s.cmd.Process.Kill() // it may have ended
		return nil, fmt.Errorf("start %s: %w", name, errors.Join(err, s.cmd.Wait()))
	}
	s.stdin, s.target = stdin, target{strings.TrimSpace(line), "/tokenreview", authenticated}
	return s, nil
}

// stop ends the server and waits for it.
func (s *server) stop() error {
	if s.stdin != nil {
		return errors.Join(s.stdin.Close(), s.cmd.Wait())
	}
	_ = s.cmd.Process.Kill() // it may have ended
	_ = s.cmd.Wait()         // killed, as it says
	return nil
}

// cpu is what the server's process has used since it started.
func (s *server) cpu() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	return cpuOf(b)
}

// cpuOf reads utime and stime, in hundredths of a second (proc_pid_stat(5);
// USER_HZ is 100 on every machine that we build for).
func cpuOf(stat []byte) (time.Duration, error) {
	// The second field is the program's name in brackets, and may hold any of them.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, errors.New("/proc/PID/stat is too short")
	}
	user, err := strconv.Atoi(string(fields[11]))
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(string(fields[12]))
	return time.Duration(user+system) * 10 * time.Millisecond, err
}

// rss is the memory that the server's process holds, in MB.
func (s *server) rss() (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(b)
	if len(fields) < 2 {
		return 0, errors.New("/proc/PID/statm is too short")
	}
	pages, err := strconv.Atoi(string(fields[1]))
	return float64(pages*os.Getpagesize()) / 1e6, err
}

// startPart starts a program of ../bin, which dies with this process: the
// caller's goroutine must be locked to its thread (prctl(2), PR_SET_PDEATHSIG).
func startPart(dir, name string, args ...string) (*server, error) {
	return startProgram(dir, name, nil, args...)
}

func startProgram(dir, name string, env []string, args ...string) (*server, error) {
	log, err := os.Create(logFile(dir, name))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the child has its own
	s := &server{cmd: exec.Command(filepath.Join("..", "bin", name), args...)}
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = ".", log, log
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s (make tools builds it): %w", name, err)
	}
	return s, nil
}

func logFile(dir, name string) string {
	return filepath.Join(dir, strings.ReplaceAll(name, "/", "-")+".log")
}

// cpuHere is what this process has used.
func cpuHere() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // fails for a bad argument only
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestCPUOfSkipsTheProgramsName(t *testing.T) {
	t.Parallel()
	got, err := cpuOf([]byte("42 (a) b (c 1) S 1 42 42 0 -1 4194560 1 2 3 4 250 50 7 8 20 0 9 0 100 1 2"))
	if want := 3 * time.Second; err != nil || got != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	if _, err := cpuOf([]byte("42 (a) S 1")); err == nil {
		t.Error("a short line was taken")
	}
}

func TestThisProcessCanBeMeasured(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("CPU and memory of a process are read from /proc: Linux only")
	}
	self := &server{cmd: &exec.Cmd{Process: &os.Process{Pid: os.Getpid()}}}
	if _, err := self.cpu(); err != nil {
		t.Error(err)
	}
	if mb, err := self.rss(); err != nil || mb < 1 {
		t.Errorf("%v MB, %v", mb, err)
	}
}

// pattern is a flag that takes a regular expression.
func pattern(name, usage string) *regexp.Regexp {
	re := regexp.MustCompile("")
	flag.Func(name, usage, func(s string) error { return re.UnmarshalText([]byte(s)) })
	return re
}

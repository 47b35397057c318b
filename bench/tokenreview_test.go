package bench

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	jose "github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/errgroup"

	"github.com/tipstaff-dev/tipstaff/authn"
	"github.com/tipstaff-dev/tipstaff/internal/httpserve"
)

// The scenario's sizes. Tokens never seen are signed beforehand, and the server
// that gets them is a new one each round, so that none was seen before.
const (
	concurrent   = 16
	openCallers  = 128 // more than are ever busy at a rate that the server holds
	openRate     = 1000
	closedTime   = 2 * time.Second
	oneTime      = 500 * time.Millisecond
	openReviews  = 2 * openRate
	oneReviews   = 2500
	warmReviews  = 500
	firstReviews = 16000 // bounds the closed loop of tokens never seen
	kubeReviews  = 5000
	repeated     = 1000 // how many tokens the repeated reviews have
	inProcess    = 5000
)

// contestant is one row of the scenario over TLS.
type contestant struct {
	row    string
	start  func() (*server, error) // a fresh one each round
	stop   func(*server) error
	warm   [][]byte
	closed [][]byte // reviewed once each; nil: warm, over and over
	one    [][]byte
	open   [][]byte
}

// scenario measures everything about token reviews, in interleaved rounds.
func scenario(out string) (err error) {
	runtime.LockOSThread() // never unlocked: the parts die with this thread
	// The open loop's clock sits in a system call most of the time.
	runtime.GOMAXPROCS(runtime.NumCPU() + 1)
	ctx := context.Background()
	rounds := *scenarioRounds
	// A fixed place, so that what an interrupted run left goes with the next one.
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
	cp, err := startControlPlane(ctx, id, p)
	if cp != nil {
		defer func() { err = errors.Join(err, cp.stop()) }()
	}
	if err == nil {
		err = cp.addRevocations(ctx)
	}
	if err != nil {
		return err
	}
	say("signing tokens")
	all, oidcOf, err := contestants(ctx, id, p, cp, out)
	if err != nil {
		return err
	}
	r := &results{}
	for round := range rounds {
		say("round %d of %d", round+1, rounds)
		for _, c := range all {
			if err := c.run(id, r); err != nil {
				return fmt.Errorf("%s: %w", c.row, err)
			}
		}
		for _, alg := range []string{"RS256", "ES256"} {
			if err := oidcOf[alg].run(ctx, r); err != nil {
				return err
			}
		}
	}
	r.computeOWA()
	say("memory: %d different tokens", *scenarioTokens)
	mem, err := memoryOver(id, p, cp, marks(*scenarioTokens))
	if err != nil {
		return err
	}
	goals := append(r.goals(), memoryGoal(mem))
	text := report("Token review", head(rounds), r, tokenTables, goals, memoryTable(mem))
	b, err := json.MarshalIndent(map[string]any{"rows": r.Rows, "goals": goals, "memory": mem}, "", " ")
	if err != nil {
		return err
	}
	fmt.Println(text)
	return errors.Join(
		os.WriteFile(filepath.Join(out, "tokenreview.md"), []byte(text), 0o600),
		os.WriteFile(filepath.Join(out, "tokenreview.json"), b, 0o600))
}

// marks are the numbers of tokens after which the server's size is read: first
// when what it may remember is surely full.
func marks(tokens int) []int {
	var all []int
	for _, n := range []int{100_000, tokens / 2, tokens} {
		if n <= tokens && n > 0 && !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "==> bench: "+format+"\n", args...)
}

func head(rounds int) string {
	load, _ := os.ReadFile("/proc/loadavg") // only told
	averages := strings.Fields(string(load))
	return fmt.Sprintf("%d cores for clients and server together, %s, load %s. %d interleaved rounds; over TLS 1.3 on kept-alive HTTP/1.1 connections, servers in processes of their own, "+
		"%d revocations in force. At 1,000/s a latency counts from the time the review was due. (b) is (a) of the same round times OWA's ratio to it, measured once elsewhere.",
		runtime.NumCPU(), runtime.Version(), strings.Join(averages[:min(3, len(averages))], " "), rounds, revocations)
}

// writeAuthn writes tipstaff's configuration: one issuer and seven expressions.
func writeAuthn(dir, url string) error {
	b, err := json.Marshal(authn.Config{
		TLS: httpserve.TLS{CertFile: certFile(dir), KeyFile: keyFile(dir), ClientCAFile: certFile(dir), ClientNames: []string{callerName}},
		Issuers: []authn.Issuer{{
			Name: "platform", URL: url, CAFile: certFile(dir), Audiences: []string{audience}, Algorithms: []string{"RS256", "ES256", "EdDSA"},
			Mappings: []authn.Mapping{{
				Match: "has(claims.run_id)", Subject: "claims.sub", Run: "claims.run_id",
				Model: "has(claims.model) ? claims.model : ''", Owner: "has(claims.act) ? claims.act.sub : ''",
				Task: "has(claims.task) ? claims.task : ''", Profile: "claims.profile",
			}},
		}},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "authn.json"), b, 0o600)
}

// contestants signs the tokens and lines the rows up.
func contestants(ctx context.Context, id *identity, p *platform, cp *controlPlane, out string) ([]contestant, map[string]*inProcessRows, error) {
	reviews, rows := map[string][][]byte{}, map[string]*inProcessRows{}
	for _, alg := range []string{"RS256", "ES256"} {
		tokens, err := p.tokens(alg, warmReviews+firstReviews+oneReviews+openReviews)
		if err != nil {
			return nil, nil, err
		}
		if reviews[alg], err = reviewsOf(tokens); err != nil {
			return nil, nil, err
		}
		if rows[alg], err = newInProcessRows(ctx, id, p, alg, tokens[:inProcess]); err != nil {
			return nil, nil, err
		}
		say("%s: a token has %d bytes, its review %d", alg, len(tokens[0]), len(reviews[alg][0]))
	}
	fresh := func(name string, profile string) func() (*server, error) {
		return func() (*server, error) {
			args := []string{"-serve.dir=" + id.dir, "-serve.kube=" + cp.url}
			if profile != "" && *scenarioProfile {
				args = append(args, "-serve.cpuprofile="+filepath.Join(out, profile+".pprof"))
			}
			return startServer(name, args...)
		}
	}
	first := func(row string, reviews [][]byte, closed int, start func() (*server, error), stop func(*server) error) contestant {
		c := contestant{row: row, start: start, stop: stop}
		c.warm, reviews = reviews[:warmReviews], reviews[warmReviews:]
		c.one, reviews = reviews[:oneReviews], reviews[oneReviews:]
		c.open, reviews = reviews[:openReviews], reviews[openReviews:]
		c.closed = reviews[:closed]
		return c
	}
	return []contestant{
		{row: rowLimit, warm: reviews["RS256"][:repeated], start: fresh("limit", ""), stop: (*server).stop},
		{row: rowRepeat, warm: reviews["RS256"][:repeated], start: fresh("tipstaff", "repeat"), stop: (*server).stop},
		first(rowFirst, reviews["RS256"], firstReviews, fresh("tipstaff", "first-rs256"), (*server).stop),
		first(rowFirstEC, reviews["ES256"], firstReviews, fresh("tipstaff", "first-es256"), (*server).stop),
		// The API server stays: what it remembers of a token it forgets after
		// 10 s (apiserver, authenticator/config: TokenSuccessCacheTTL), and a
		// round takes longer.
		first(rowKube, reviews["RS256"], kubeReviews, func() (*server, error) { return cp.apiserver, nil }, func(*server) error { return nil }),
	}, rows, nil
}

// run measures one row once.
func (c *contestant) run(id *identity, r *results) (err error) {
	s, err := c.start()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.stop(s)) }()
	conns, err := callers(openCallers, s.target, id.client())
	for _, conn := range conns {
		defer conn.close()
	}
	if err != nil {
		return err
	}
	feedOf := func(reviews [][]byte) feed {
		if reviews == nil {
			return again(c.warm)
		}
		return each(reviews)
	}
	if _, _, err := closedLoop(conns, each(c.warm), time.Minute); err != nil {
		return err
	}
	before, err := s.cpu()
	if err != nil {
		return err
	}
	all, took, err := closedLoop(conns[:concurrent], feedOf(c.closed), closedTime)
	if err != nil {
		return err
	}
	after, err := s.cpu()
	if err != nil {
		return err
	}
	one, _, err := closedLoop(conns[:1], feedOf(c.one), oneTime)
	if err != nil {
		return err
	}
	open, err := openLoop(conns, feedOf(c.open), openRate, openReviews)
	if err != nil {
		return err
	}
	r.add(c.row, perSecond, float64(len(all))/took.Seconds())
	r.add(c.row, cpuEach, micros(after-before)/float64(len(all)))
	r.add(c.row, p50One, micros(percentile(one, 50)))
	r.add(c.row, p50Open, micros(percentile(open, 50)))
	r.add(c.row, p99Open, micros(percentile(open, 99)))
	return nil
}

func micros(d time.Duration) float64 { return float64(d) / 1e3 }

// inProcessRows are what the tokens cost without a server.
type inProcessRows struct {
	alg      string
	tokens   []string
	key      any
	verifier *oidc.IDTokenVerifier
}

func newInProcessRows(ctx context.Context, id *identity, p *platform, alg string, tokens []string) (*inProcessRows, error) {
	ctx = oidc.ClientContext(ctx, id.httpClient())
	provider, err := oidc.NewProvider(ctx, p.url)
	if err != nil {
		return nil, err
	}
	key := p.keys[alg].Key.(jose.JSONWebKey)
	return &inProcessRows{alg, tokens, key.Key.(crypto.Signer).Public(), provider.VerifierContext(ctx, &oidc.Config{ClientID: audience, SupportedSigningAlgs: []string{alg}})}, nil
}

func (p *inProcessRows) run(ctx context.Context, r *results) error {
	parsed := make([]*jose.JSONWebSignature, len(p.tokens))
	for i, t := range p.tokens {
		var err error
		if parsed[i], err = jose.ParseSignedCompact(t, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(p.alg)}); err != nil {
			return err
		}
	}
	for _, row := range []struct {
		name   string
		verify func(i int) error
	}{
		{rowVerify, func(i int) error {
			_, err := parsed[i].Verify(p.key)
			return err
		}},
		{rowOIDC, func(i int) error {
			t, err := p.verifier.Verify(ctx, p.tokens[i])
			if err != nil {
				return err
			}
			var claims map[string]any
			return t.Claims(&claims)
		}},
	} {
		// On all cores at once, as under the servers' load: a core is slower when
		// its neighbour works.
		before := cpuHere()
		var g errgroup.Group
		for part := range runtime.NumCPU() {
			g.Go(func() error {
				for i := part; i < len(p.tokens); i += runtime.NumCPU() {
					if err := row.verify(i); err != nil {
						return fmt.Errorf("%s%s: %w", row.name, p.alg, err)
					}
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		r.add(row.name+p.alg, cpuHereOf, micros(cpuHere()-before)/float64(len(p.tokens)))
	}
	return nil
}

// memoryTime bounds the memory row. What isn't reached by then isn't reported.
const memoryTime = 10 * time.Minute

// memoryOver sends as many different tokens as the last mark says, each of a run
// of its own, and reads the server's size at every mark. EdDSA is quick to sign.
func memoryOver(id *identity, p *platform, cp *controlPlane, marks []int) (sizes []memory, err error) {
	s, err := startServer("tipstaff", "-serve.dir="+id.dir, "-serve.kube="+cp.url)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	conns, err := callers(concurrent, s.target, id.client())
	for _, conn := range conns {
		defer conn.close()
	}
	if err != nil {
		return nil, err
	}
	began := time.Now()
	var sent atomic.Int64
	for _, mark := range marks {
		signers := make(chan *signer, concurrent)
		for range concurrent {
			sg, err := p.signer("EdDSA")
			if err != nil {
				return nil, err
			}
			signers <- sg
		}
		next := func() ([]byte, bool) {
			n := sent.Add(1)
			if n > int64(mark) {
				return nil, false
			}
			sg := <-signers
			defer func() { signers <- sg }()
			t, err := sg.token(int(n))
			if err != nil {
				return nil, false // the count below says that some are missing
			}
			b, err := reviewOf(t)
			return b, err == nil
		}
		left := memoryTime - time.Since(began)
		if left <= 0 {
			break
		}
		had := int(sent.Load())
		latencies, _, err := closedLoop(conns, next, left)
		if err != nil {
			return nil, err
		}
		if had+len(latencies) < mark {
			say("memory: %d tokens in %s, stopped there", had+len(latencies), memoryTime)
			break
		}
		sent.Store(int64(mark))
		mb, err := s.rss()
		if err != nil {
			return nil, err
		}
		sizes = append(sizes, memory{mark, mb})
	}
	return sizes, nil
}

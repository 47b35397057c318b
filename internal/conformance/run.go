package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

const (
	// workers is how many requests are under way at once. Watches last a second each.
	workers = 8
	// maxPages bounds how many pages of a list are followed.
	maxPages = 100
)

// Options say what to check, and as whom.
type Options struct {
	// Agent reads, Plant plants and removes. They may be the same.
	Agent, Plant *rest.Config
	// NamespacePrefix begins the name of the namespace that is made.
	NamespacePrefix string
	// Only are patterns (path.Match) of places, or of place/read; empty is all.
	Only []string
	// CRD plants objects of a kind of the suite's own, too: a cluster-wide
	// definition, whose field spec.credential the configuration must mask.
	CRD bool
	// Progress hears what is being done. It may be nil.
	Progress func(text string)
}

// run is one run of the suite.
type run struct {
	opts    Options
	agent   *client
	planter *planter
	scanner *Scanner
	holders []*holder
	// values are the scanner's, places those of each of them.
	values []Value
	places [][]string
	// unknown says why the agent could not read the Secret of that name, which
	// would have made its values known.
	unknown map[string]string

	mu    sync.Mutex
	cells []Cell
}

// Run plants, reads, and removes what it planted. An error means that it could
// not be run to its end; what it had found until then is in the report, which
// may be nil.
func Run(ctx context.Context, opts Options) (report *Report, err error) {
	for _, p := range opts.Only {
		if _, err := path.Match(p, ""); err != nil {
			return nil, fmt.Errorf("pattern %q: %w", p, err)
		}
	}
	if opts.Progress == nil {
		opts.Progress = func(string) {}
	}
	r := &run{opts: opts, unknown: map[string]string{}}
	if r.agent, err = newClient(opts.Agent); err != nil {
		return nil, err
	}
	if r.planter, err = newPlanter(opts.Plant); err != nil {
		return nil, err
	}
	b := &builder{suffix: random(lower, 6)}
	b.namespace = opts.NamespacePrefix + "-" + b.suffix
	defer func() {
		opts.Progress("removing what was planted")
		err = errors.Join(err, r.planter.remove(ctx))
	}()
	opts.Progress("planting in namespace " + b.namespace)
	rejected, err := r.plantAll(ctx, b)
	if err != nil {
		return nil, err
	}
	opts.Progress(fmt.Sprintf("reading %d objects", len(r.holders)))
	for _, step := range []func(context.Context) error{
		r.makeKnown, r.readAll, r.writeBackAll, r.writeElsewhere, r.askForToken, r.claimIdentity, r.selectByValue,
		func(ctx context.Context) error { return r.provoke(ctx, rejected) },
	} {
		if err = step(ctx); err != nil {
			err = fmt.Errorf("not run to its end: %w", err)
			break
		}
	}
	return r.report(b.namespace), err
}

// wanted reports whether a place is to be planted at all.
func (r *run) wanted(place string) bool {
	return len(r.opts.Only) == 0 || slices.ContainsFunc(r.opts.Only, func(p string) bool {
		if at, _, both := strings.Cut(p, "/"); both {
			p = at
		}
		ok, _ := path.Match(p, place) // was checked
		return ok
	})
}

// wants reports whether one read of a place is to be made.
func (r *run) wants(place, read string) bool {
	return len(r.opts.Only) == 0 || slices.ContainsFunc(r.opts.Only, func(p string) bool {
		of := place
		if strings.Contains(p, "/") {
			of += "/" + read
		}
		ok, _ := path.Match(p, of) // was checked
		return ok
	})
}

// plantAll plants, and makes the scanner of what was planted. What the plant
// kubeconfig may not make is skipped. It gives the values for what will be
// rejected.
func (r *run) plantAll(ctx context.Context, b *builder) ([]credential, error) {
	if err := r.planter.begin(ctx, b.namespace); err != nil {
		return nil, err
	}
	all := build(b, r.opts.CRD, r.wanted)
	if slices.ContainsFunc(all, func(h *holder) bool { return h.gvr == widgets }) {
		definition := widgetDefinition()
		b.label(definition)
		if err := r.planter.define(ctx, definition); err != nil {
			return nil, fmt.Errorf("define the suite's own kind: %w", err)
		}
	}
	for _, h := range all {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := r.planter.plant(ctx, h); err != nil {
			r.notPlanted(h, err)
			continue
		}
		r.holders = append(r.holders, h)
	}
	var values []Value
	var rejected []credential
	for range rejections {
		c := password()
		rejected = append(rejected, c)
		values = append(values, Value{placeRejected, []byte(c.secret)})
	}
	for _, h := range r.holders {
		values = append(values, h.values...)
	}
	return rejected, r.lookFor(values)
}

// lookFor makes the scanner. A value may lie in several places.
func (r *run) lookFor(values []Value) error {
	for _, v := range values {
		i := slices.IndexFunc(r.values, func(o Value) bool { return bytes.Equal(o.Secret, v.Secret) })
		if i < 0 {
			r.values, r.places = append(r.values, v), append(r.places, nil)
			i = len(r.values) - 1
		}
		r.places[i] = append(r.places[i], v.Place)
	}
	var err error
	r.scanner, err = NewScanner(r.values)
	return err
}

func (r *run) notPlanted(h *holder, err error) {
	why := "could not be planted"
	if reason := apierrors.ReasonForError(err); reason != "" {
		why += ": " + string(reason) // its message may quote what was planted
	} else if !errors.As(err, new(apierrors.APIStatus)) {
		why += ": " + err.Error()
	}
	places := []string{h.fills}
	for _, v := range h.values {
		places = append(places, v.Place)
	}
	for _, p := range places {
		if p != "" {
			r.add(Cell{Place: p, Read: "plant", Result: Skipped, Path: objectPath(h.gvr, h.namespace(), h.name()), Reason: why})
		}
	}
}

func (r *run) add(cells ...Cell) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range cells {
		if r.wants(c.Place, c.Read) {
			r.cells = append(r.cells, c)
		}
	}
}

// makeKnown lets the agent read the Secrets whose values lie elsewhere, too.
func (r *run) makeKnown(ctx context.Context) error {
	for _, h := range r.holders {
		if h.first == "" || r.unknown[h.first] != "" {
			continue
		}
		p := objectPath(secrets, h.namespace(), h.first)
		a, err := r.agent.do(ctx, request{method: http.MethodGet, path: p, header: http.Header{"Accept": {"application/json"}}})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			r.unknown[h.first] = r.scrub(err.Error())
		case a.code != http.StatusOK:
			r.unknown[h.first] = r.why(a)
		}
	}
	return nil
}

// readAll makes every read of every object and resource: reads first, then what
// would change something if it were no dry run.
func (r *run) readAll(ctx context.Context) error {
	type listed struct {
		gvr     schema.GroupVersionResource
		holders []*holder
	}
	var lists []*listed
	var jobs []func(context.Context)
	for _, h := range r.holders {
		for _, gvr := range append([]schema.GroupVersionResource{h.gvr}, h.views...) {
			p := objectPath(gvr, h.namespace(), h.name())
			for i := range objectReads {
				rd := &objectReads[i]
				if rd.on == nil || rd.on(h) {
					jobs = append(jobs, func(ctx context.Context) { r.check(ctx, rd, h, p, []*holder{h}) })
				}
			}
			if !inNamespace(h) {
				continue
			}
			i := slices.IndexFunc(lists, func(l *listed) bool { return l.gvr == gvr })
			if i < 0 {
				lists = append(lists, &listed{gvr: gvr})
				i = len(lists) - 1
			}
			lists[i].holders = append(lists[i].holders, h)
		}
	}
	for _, l := range lists {
		p := objectPath(l.gvr, l.holders[0].namespace(), "")
		for i := range listReads {
			rd := &listReads[i]
			jobs = append(jobs, func(ctx context.Context) { r.check(ctx, rd, l.holders[0], p, l.holders) })
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for _, job := range jobs {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			job(ctx)
			return ctx.Err()
		})
	}
	return g.Wait()
}

// check makes one read and judges it for every value that the holders have.
func (r *run) check(ctx context.Context, rd *read, h *holder, p string, holders []*holder) {
	if !slices.ContainsFunc(holders, func(h *holder) bool {
		return slices.ContainsFunc(h.values, func(v Value) bool { return r.wants(v.Place, rd.name) })
	}) {
		return
	}
	q := rd.request(h, p)
	a, err := r.ask(ctx, rd, q, p)
	if ctx.Err() != nil {
		return
	}
	r.judge(rd.name, q, a, err, rd.quotes, holders)
}

// ask sends q, with what some reads need before and after.
func (r *run) ask(ctx context.Context, rd *read, q request, p string) (answer, error) {
	if rd.replace {
		a, err := r.agent.do(ctx, request{method: http.MethodGet, path: p, header: http.Header{"Accept": {"application/json"}}})
		if err != nil || a.code != http.StatusOK {
			return a, err
		}
		q.body = string(a.body)
	}
	a, err := r.agent.do(ctx, q)
	if err != nil || !rd.pages {
		return a, err
	}
	for page, n := a, 1; n < maxPages; n++ {
		var list struct {
			Metadata struct {
				Continue string `json:"continue"`
			} `json:"metadata"`
		}
		if json.Unmarshal(page.body, &list) != nil || list.Metadata.Continue == "" {
			break
		}
		next := q
		next.path += "&continue=" + list.Metadata.Continue
		if page, err = r.agent.do(ctx, next); err != nil {
			return a, err
		}
		a.body = append(append(a.body, '\n'), page.body...)
	}
	return a, nil
}

// judge says of each value what the answer shows of it. A value of another
// object is a leak, too.
func (r *run) judge(name string, q request, a answer, err error, quotes []int, holders []*holder) {
	var cells []Cell
	cell := func(place string, result Result) *Cell {
		cells = append(cells, Cell{Place: place, Read: name, Result: result, Path: q.path})
		return &cells[len(cells)-1]
	}
	all := a.whole()
	hits := r.scanner.Scan(all)
	where := map[int]string{}
	if len(hits) > 0 {
		where = r.locate(a.body)
	}
	reported := map[int]bool{}
	leak := func(place string, hit Hit) {
		reported[hit.Value] = true
		c := cell(place, Leak)
		c.Form, c.Where, c.Reproduce = hit.Form, where[hit.Value], q.curl()
		if c.Where == "" {
			c.Where = "the answer's bytes"
		}
	}
	for _, h := range holders {
		seen := a.code >= 200 && a.code < 300 && bytes.Contains(a.body, []byte(h.name()))
		for _, v := range h.values {
			hit := slices.IndexFunc(hits, func(x Hit) bool { return bytes.Equal(r.values[x.Value].Secret, v.Secret) })
			switch {
			case hit >= 0:
				leak(v.Place, hits[hit])
			case err != nil:
				cell(v.Place, Skipped).Reason = "no answer: " + r.scrub(err.Error())
			case seen && r.unknown[h.first] != "" && strings.HasPrefix(v.Place, "known-value"):
				cell(v.Place, Skipped).Reason = "the Secret that makes it known could not be read: " + r.unknown[h.first]
			case seen:
				cell(v.Place, OK)
			case slices.Contains(quotes, a.code):
				cell(v.Place, OK).Reason = fmt.Sprintf("answered %d", a.code)
			default:
				cell(v.Place, Skipped).Reason = r.why(a)
			}
		}
	}
	for _, hit := range hits {
		if !reported[hit.Value] {
			leak(r.places[hit.Value][0], hit)
		}
	}
	r.add(cells...)
}

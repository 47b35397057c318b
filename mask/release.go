package mask

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/klauspost/compress/gzip"
	yamlv3 "go.yaml.in/yaml/v3"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// Helm keeps each revision of a release in a Secret or, where it is told to, in a
// ConfigMap, as JSON that is compressed and in base64; a Secret's values are in
// base64 once more (helm.sh/helm/v4, pkg/storage/driver). Masked as one value it
// is of no use to helm, so clients get it masked within: what was asked for and
// what the chart holds is hidden, and the objects that were made of it are masked
// as those in the cluster are.

const (
	// releaseKey is the name of the value.
	releaseKey = "release"
	// maxReleaseBytes bounds one release's JSON, maxReleaseValues its values,
	// maxDocument one object of its manifests (etcd takes no larger one), and
	// maxReleasesBytes what is unpacked for one answer or one body. What is beyond
	// stays one value.
	maxReleaseBytes  = 16 << 20
	maxReleaseValues = 1 << 17
	maxDocument      = 3 << 19
	maxReleasesBytes = 256 << 20
)

// unpacking bounds how many releases are unpacked at a time: each takes up to
// some hundred megabytes where somebody means to.
var unpacking = make(chan struct{}, 2)

var errRelease = errors.New("it is no release of helm's")

// gzipBase64 is how the base64 of what is compressed starts (RFC 1952 section
// 2.3), packedBase64 the base64 of that.
const (
	gzipBase64   = "H4sI"
	packedBase64 = "SDRzS"
)

// Opening gives the same marks, and masks releases of helm's within: for
// clients, which may send them back.
func (s *Scoped) Opening() *Scoped {
	opening := *s
	opening.opens = maxReleasesBytes
	return &opening
}

// inflated unpacks a value as helm keeps it. left is how many bytes may still be
// unpacked.
func inflated(value []byte, left *int) ([]byte, error) {
	value = unbroken(value)
	if !bytes.HasPrefix(value, []byte(gzipBase64)) {
		return nil, errRelease
	}
	packed := make([]byte, base64.StdEncoding.DecodedLen(len(value)))
	n, err := base64.StdEncoding.Decode(packed, value)
	if err != nil {
		return nil, errRelease
	}
	zr, err := gzip.NewReader(bytes.NewReader(packed[:n]))
	if err != nil {
		return nil, errRelease
	}
	most := min(maxReleaseBytes, *left)
	raw, err := io.ReadAll(io.LimitReader(zr, int64(most)+1))
	*left -= len(raw)
	if len(raw) > most {
		return nil, errTooLarge
	}
	if err != nil {
		return nil, errRelease
	}
	return raw, nil
}

// unbroken takes out the line breaks that readers of base64 pass over.
func unbroken(v []byte) []byte {
	if !bytes.ContainsAny(v, "\r\n") {
		return v
	}
	return bytes.ReplaceAll(bytes.ReplaceAll(v, []byte("\r"), nil), []byte("\n"), nil)
}

// unwrapped gives a value as helm made it. secret says that it was in base64 as
// a Secret's data.
func unwrapped(v []byte) (value []byte, secret bool, err error) {
	v = unbroken(v)
	if !bytes.HasPrefix(v, []byte(packedBase64)) {
		return v, false, nil
	}
	value = make([]byte, base64.StdEncoding.DecodedLen(len(v)))
	n, err := base64.StdEncoding.Decode(value, v)
	return value[:n], true, err
}

// openRelease reads what an object holds under releaseKey. left is as inflated
// has it.
func openRelease(v []byte, left *int) (r map[string]any, secret bool, err error) {
	value, secret, err := unwrapped(v)
	if err != nil {
		return nil, false, errRelease
	}
	raw, err := inflated(value, left)
	if err != nil {
		return nil, false, err
	}
	if err := texts(raw, maxReleaseValues, func(string) bool { return true }); err != nil {
		return nil, false, errRelease
	}
	decoded, err := decode(raw)
	if err != nil {
		return nil, false, errRelease
	}
	r, _ = decoded.(map[string]any)
	_, named := r["name"].(string)
	_, charted := r["chart"].(map[string]any)
	_, informed := r["info"].(map[string]any)
	_, numbered := r["version"].(json.Number)
	if !named || !charted || !informed || !numbered {
		return nil, false, errRelease
	}
	return r, secret, nil
}

// texts calls f for each text of a JSON value, names included, until f says false.
// It reads no more than most values.
func texts(raw []byte, most int, f func(text string) bool) error {
	d := jsontext.NewDecoder(bytes.NewReader(raw))
	for range most {
		tok, err := d.ReadToken()
		switch {
		case err == io.EOF: //nolint:errorlint // jsontext returns io.EOF itself
			return nil
		case err != nil:
			return errSyntax
		case tok.Kind() == '"' && !f(tok.String()):
			return nil
		}
	}
	return errTooLarge
}

// closeRelease is the opposite of openRelease. What says in which state a release
// is, which clients may write, is compressed by itself: how long the rest is
// together with it would tell whether it has something in common with a guess.
func closeRelease(r map[string]any, secret bool, level int) (string, error) {
	rest := maps.Clone(r)
	delete(rest, "info")
	raw, err := encode(rest)
	if err != nil {
		return "", err
	}
	info, err := encode(r["info"])
	if err != nil {
		return "", err
	}
	if len(raw)+len(info) > maxReleaseBytes-16 {
		return "", errTooLarge
	}
	var packed bytes.Buffer
	for _, part := range [...]string{string(raw[:len(raw)-1]), `,"info":` + string(info) + "}"} {
		zw, err := gzip.NewWriterLevel(&packed, level)
		if err != nil {
			return "", err
		}
		if _, err := io.WriteString(zw, part); err != nil {
			return "", err
		}
		if err := zw.Close(); err != nil {
			return "", err
		}
	}
	value := base64.StdEncoding.EncodeToString(packed.Bytes())
	if secret {
		value = base64.StdEncoding.EncodeToString([]byte(value))
	}
	return value, nil
}

// release masks the value at pos within, where it is a release of helm's. Else
// done is false, and next is where it was.
func (w *walker) release(pos int) (done bool, err error) {
	if w.s.opens == 0 || w.host != nil || w.buf[pos] != '"' {
		return false, nil // what is quoted is no record
	}
	at, word := w.at, w.word
	data, end, err := w.string(pos)
	if err != nil {
		return false, err
	}
	if value, _, err := unwrapped(data); err != nil || !bytes.HasPrefix(value, []byte(gzipBase64)) {
		w.at, w.word = at, word
		return false, nil
	}
	unpacking <- struct{}{}
	defer func() { <-unpacking }()
	left := w.s.opens - w.unpacked
	r, secret, err := openRelease(data, &left)
	grown := w.s.opens - w.unpacked - left
	w.unpacked += grown
	var out string
	if err == nil {
		err = w.within(r)
	}
	if err == nil {
		out, err = closeRelease(r, secret, gzip.BestSpeed)
	}
	if err != nil {
		w.at, w.word = at, word
		return false, nil
	}
	w.replaceText(pos, end, []byte(out))
	return true, nil
}

// within masks a release. An error means that a part of it can't be read.
func (w *walker) within(r map[string]any) error {
	w.room = 4 * maxReleaseBytes
	// Twice: what one object shows may be another's secret, which is known only
	// after it was read.
	for range 2 {
		for _, m := range manifests(r) {
			if _, err := w.manifest(m, true); err != nil {
				return err
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(r)) {
		v := r[k]
		var err error
		switch k {
		case "name", "namespace", "version", "apply_method":
			r[k] = w.told(v)
		case "manifest":
			r[k], err = w.manifestOf(v, true)
		case "info":
			w.info(v)
		case "chart":
			err = w.chart(v)
		case "hooks":
			r[k], err = w.hooks(v)
		default: // config among them: what is no secret there, nothing tells
			r[k] = w.hide(v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// manifests are those of a release and of its hooks.
func manifests(r map[string]any) (all []string) {
	hooks, _ := r["hooks"].([]any)
	for _, m := range append(slices.Clone(hooks), r) {
		if s, ok := at(m, "manifest").(string); ok {
			all = append(all, s)
		}
	}
	return all
}

// told gives a name, a time, a state or a number, in which only what is known
// to be secret is masked.
func (w *walker) told(v any) any {
	switch v := v.(type) {
	case string:
		if _, err := time.Parse(time.RFC3339, v); err == nil {
			return v
		}
		if out, changed := w.freeText([]byte(v), inConfig); changed {
			return string(out)
		}
		return v
	case json.Number, bool, nil:
		return v
	}
	return w.hide(v)
}

// hide masks every text and number below v, which is a value of the Secret's.
func (w *walker) hide(v any) any {
	switch v := v.(type) {
	case bool, nil:
		return v
	case []any:
		for i, e := range v {
			v[i] = w.hide(e)
		}
		return v
	case map[string]any:
		for k, e := range v {
			v[k] = w.hide(e)
		}
		return v
	}
	return w.deep(v)
}

// hide64 is hide for what is in base64.
func (w *walker) hide64(v any) any {
	s, ok := v.(string)
	if !ok || s == "" {
		return w.hide(v)
	}
	return base64.StdEncoding.EncodeToString(w.s.appendValue(nil, []byte(s), w))
}

// descriptions are those that helm itself gives a release.
var descriptions = regexp.MustCompile(`^(?:(?:Install|Upgrade|Dry run|Uninstallation) complete|Initial install underway|Preparing upgrade|Rollback to \d+|Deletion in progress \(or silently failed\))$`)

func (w *walker) info(v any) {
	info, _ := v.(map[string]any)
	for k, v := range info {
		switch k {
		case "first_deployed", "last_deployed", "deleted", "status", "rollback_revision":
			info[k] = w.told(v)
		case "description":
			if s, ok := v.(string); ok && descriptions.MatchString(s) {
				continue
			}
			info[k] = w.hide(v)
		default:
			info[k] = w.hide(v)
		}
	}
}

func (w *walker) chart(v any) (err error) {
	chart, _ := v.(map[string]any)
	for k, v := range chart {
		switch k {
		case "metadata", "lock":
			chart[k], err = w.plain(v)
			if err != nil {
				return err
			}
		case "modtime", "schemamodtime":
			chart[k] = w.told(v)
		case "schema":
			chart[k] = w.hide64(v)
		case "templates", "files":
			chart[k] = w.files(v)
		default: // values among them
			chart[k] = w.hide(v)
		}
	}
	return nil
}

func (w *walker) files(v any) any {
	masked, _ := w.objects(v, func(name string, v any) (any, error) { // none fails
		switch name {
		case "name", "modtime":
			return w.told(v), nil
		case "data":
			return w.hide64(v), nil
		}
		return w.hide(v), nil
	})
	return masked
}

func (w *walker) hooks(v any) (any, error) {
	return w.objects(v, func(name string, v any) (any, error) {
		switch name {
		case "name", "kind", "path", "weight":
			return w.told(v), nil
		case "events", "delete_policies", "output_log_policies", "last_run":
			return w.plain(v)
		case "manifest":
			return w.manifestOf(v, false)
		}
		return w.hide(v), nil
	})
}

// objects has member mask each member of each object in a list. What is none is
// hidden.
func (w *walker) objects(v any, member func(name string, v any) (any, error)) (_ any, err error) {
	list, ok := v.([]any)
	if !ok {
		return w.hide(v), nil
	}
	for i, e := range list {
		object, ok := e.(map[string]any)
		if !ok {
			list[i] = w.hide(e)
		}
		for k, v := range object {
			if object[k], err = member(k, v); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

// plain masks what is no object of the cluster's, and holds no value either.
func (w *walker) plain(v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	raw, err := encode(map[string]any{"plain": v})
	if err != nil {
		return nil, err
	}
	out, err := w.s.quote(raw, about{known: true}, w.quoted+1, &w.left, w)
	if err != nil || out == nil {
		return v, err
	}
	masked, err := decode(out)
	return at(masked, "plain"), err
}

func (w *walker) manifestOf(v any, sourced bool) (any, error) {
	s, ok := v.(string)
	if !ok {
		return w.hide(v), nil
	}
	return w.manifest(s, sourced)
}

// origin is the comment by which helm says which template an object is of.
var origin = regexp.MustCompile(`\A(?:---\n)?\s*(# Source: [\w./-]+\n)`)

// document is one object of a manifest: as it stands, and as JSON.
type document struct {
	text string
	raw  []byte
}

// documents gives the objects of a text of many, in YAML. left is how many bytes
// of JSON may still be made of such.
func documents(text string, left *int) (all []document, err error) {
	docs := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, errSyntax
		}
		if len(doc) > maxDocument {
			return nil, errTooLarge
		}
		raw, err := FromYAML(doc, false)
		if err != nil {
			return nil, err
		}
		raw = bytes.TrimSpace(raw)
		*left -= len(raw)
		switch {
		case len(raw) > maxDocument || *left < 0:
			return nil, errTooLarge
		case string(raw) == "null":
			continue
		case raw[0] != '{':
			return nil, errNoObject
		}
		all = append(all, document{string(doc), raw})
	}
}

// indented is at most how long JSON is as YAML, where each line begins as far to
// the right as it is deep.
func indented(raw []byte) int {
	size, depth, within := len(raw), 0, false
	for i := 0; i < len(raw); i++ {
		switch b := raw[i]; {
		case b == '\\':
			if i++; i < len(raw) && raw[i] == 'n' {
				size += 2*depth + 4
			}
		case b == '"':
			within = !within
		case within:
		case b == '{' || b == '[':
			depth++
			size += 2*depth + 4
		case b == '}' || b == ']':
			depth--
		case b == ',':
			size += 2*depth + 4
		}
	}
	return size
}

// manifest masks each object of a text of many. Of its comments only those of
// helm's own stay, where it is sourced.
func (w *walker) manifest(text string, sourced bool) (string, error) {
	docs, err := documents(text, &w.room)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, doc := range docs {
		w.left.more(len(doc.raw))
		out, err := w.s.quote(doc.raw, about{}, w.quoted+1, &w.left, w)
		if err != nil {
			return "", err
		}
		if out == nil {
			out = doc.raw
		}
		if w.room -= indented(out); w.room < 0 {
			return "", errTooLarge
		}
		if out, err = yaml.JSONToYAML(out); err != nil {
			return "", errSyntax
		}
		b.WriteString("---\n")
		if m := origin.FindStringSubmatch(doc.text); m != nil && sourced {
			b.WriteString(m[1])
		}
		b.Write(out)
	}
	return b.String(), nil
}

// release gives the object's release in the state that sent says it is in. ok is
// false where sent differs from what was shown in anything else: helm changes
// nothing else of a record.
func (o *Originals) release(sent, real, masked string) (out string, ok bool) {
	unpacking <- struct{}{}
	defer func() { <-unpacking }()
	left := maxReleasesBytes
	var all [3]map[string]any
	var secret bool
	for i, v := range [...]string{real, masked, sent} {
		var err error
		if all[i], secret, err = openRelease([]byte(v), &left); err != nil {
			return "", false
		}
	}
	was, shown, now := all[0], all[1], all[2]
	info, _ := now["info"].(map[string]any)
	for k, v := range info {
		if equal(v, at(shown, "info", k)) {
			info[k] = at(was, "info", k)
		} else if _, marked := ContainsMark(v); marked {
			return "", false
		}
	}
	// When a hook ran is left as it was: it is no state of the release's.
	for _, r := range [...]map[string]any{shown, now} {
		delete(r, "info")
		hooks, _ := r["hooks"].([]any)
		for _, h := range hooks {
			if hook, ok := h.(map[string]any); ok {
				delete(hook, "last_run")
			}
		}
	}
	if !asShown(now, shown) {
		return "", false
	}
	was["info"] = info
	out, err := closeRelease(was, secret, gzip.BestCompression)
	return out, err == nil
}

// asShown reports whether sent says nothing but what was shown. It may leave out
// members: helm leaves out empty ones, and what a later one has added. Objects of
// a manifest may be masked in another way by now, since more or fewer values are
// known. Nothing is compared with real values: the answer says nothing of them.
func asShown(sent, shown any) bool {
	left := 4 * maxReleaseBytes
	return alike(sent, shown, false, &left)
}

func alike(sent, shown any, loose bool, left *int) bool {
	switch v := sent.(type) {
	case nil:
		return true
	case map[string]any:
		s, ok := shown.(map[string]any)
		if !ok {
			return void(v) && void(shown)
		}
		for k, e := range v {
			if now, there := s[k]; !there && !void(e) || there && !alike(e, now, loose, left) {
				return false
			}
		}
		return true
	case []any:
		s, ok := shown.([]any)
		if !ok || len(v) != len(s) {
			return void(v) && void(shown)
		}
		for i, e := range v {
			if !alike(e, s[i], loose, left) {
				return false
			}
		}
		return true
	case string:
		s, ok := shown.(string)
		switch {
		case !ok:
			return void(v) && void(shown)
		case v == s:
			return true
		case loose:
			return HasMark(v) || HasMark(s)
		}
		return sameDocuments(v, s, left)
	}
	return void(sent) && void(shown) || equal(sent, shown)
}

// sameDocuments is alike for two manifests.
func sameDocuments(sent, shown string, left *int) bool {
	v, errV := documents(sent, left)
	s, errS := documents(shown, left)
	if errV != nil || errS != nil || len(v) != len(s) || len(s) == 0 {
		return false
	}
	for i := range s {
		a, errA := decode(v[i].raw)
		b, errB := decode(s[i].raw)
		if errA != nil || errB != nil || !alike(a, b, true, left) {
			return false
		}
	}
	return true
}

// void reports whether a value is left out where empty ones are.
func void(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case json.Number:
		return v == "0"
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// Packed reports whether a text may hold something compressed, in which marks
// could stand: [ContainsMark] looks there, [HasMark] doesn't.
func Packed(text []byte) bool {
	return bytes.Contains(text, []byte(packedBase64)) || bytes.Contains(text, []byte(gzipBase64))
}

// packs reports whether a mark stands in what v holds compressed, as a Secret's
// data or its stringData does. What is more than left is taken for one.
func packs(v string, left *int) bool {
	begins := strings.TrimLeft(v, "\r\n")
	if begins == "" || begins[0] != packedBase64[0] && begins[0] != gzipBase64[0] {
		return false // as most
	}
	value, _, err := unwrapped([]byte(v))
	if err != nil {
		return false
	}
	raw, err := inflated(value, left)
	if errors.Is(err, errTooLarge) {
		return *left <= 0 // none that large was shown
	}
	if err != nil {
		return false
	}
	found := false
	if err := texts(raw, len(raw), func(text string) bool {
		found = HasMark(text)
		return !found
	}); err != nil {
		return HasMark(string(raw))
	}
	return found
}

// FromYAML reads a YAML document as JSON. One that aliases make larger than any
// object is an error before it is expanded: readers of YAML bound how many values
// they make, and not how long these are.
func FromYAML(doc []byte, strict bool) ([]byte, error) {
	if bytes.IndexByte(doc, '&') >= 0 {
		var n yamlv3.Node
		if err := yamlv3.Unmarshal(doc, &n); err != nil {
			return nil, errSyntax
		}
		if expanded(&n, map[*yamlv3.Node]int{}) > MaxObjectBytes {
			return nil, errTooLarge
		}
	}
	convert := yaml.YAMLToJSON
	if strict {
		convert = yaml.YAMLToJSONStrict
	}
	raw, err := convert(doc)
	if err != nil {
		return nil, errSyntax
	}
	return raw, nil
}

// expanded is about how many bytes of JSON n becomes.
func expanded(n *yamlv3.Node, sizes map[*yamlv3.Node]int) int {
	if size, known := sizes[n]; known {
		return size
	}
	sizes[n] = MaxObjectBytes + 1 // what holds itself
	size := len(n.Value) + 4
	if n.Kind == yamlv3.AliasNode {
		size = expanded(n.Alias, sizes)
	}
	for _, c := range n.Content {
		if size = size + expanded(c, sizes); size > MaxObjectBytes {
			break
		}
	}
	sizes[n] = size
	return size
}

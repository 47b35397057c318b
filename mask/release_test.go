package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
)

const (
	releasePIN = "73519"
	releaseKMS = "kms-Zr8-correct-horse-77Q"
)

// aRelease is a release as helm keeps it, with secrets wherever they may be.
func aRelease() map[string]any {
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	return map[string]any{
		"name": "shop", "namespace": "prod", "version": json.Number("3"), "apply_method": "ssa",
		"info": map[string]any{
			"first_deployed": "2026-11-24T00:00:00Z", "last_deployed": "2026-11-24T00:00:00Z", "deleted": "", "status": "deployed",
			"description": "Upgrade complete", "notes": "Your PIN is " + releasePIN,
		},
		"chart": map[string]any{
			"metadata": map[string]any{"name": "shop", "version": "0.1.0", "deprecated": true, "maintainers": []any{map[string]any{"name": "Ann"}}},
			"lock":     nil, "schema": b64(`{"default":"` + planted + `"}`),
			"templates": []any{map[string]any{"name": "templates/app.yaml", "data": b64("pin: " + releasePIN)}},
			"files":     []any{map[string]any{"name": "pin.txt", "data": b64(releasePIN)}},
			"values":    map[string]any{"pin": json.Number(releasePIN), "debug": false},
		},
		"config": map[string]any{"auth": map[string]any{"pin": releasePIN, "list": []any{releasePIN}}, "debug": true},
		"manifest": "---\n# Source: shop/templates/app.yaml\n# pin " + releasePIN + "\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: app\nspec:\n  template:\n    spec:\n      containers:\n      - name: c\n        env:\n        - {name: WHAT, value: " + releaseKMS + "}\n        - {name: PASSWORD, value: " + planted + "}\n" +
			"---\n# Source: shop/templates/secret.yaml\napiVersion: v1\nkind: Secret\nmetadata:\n  name: app\ndata:\n  pin: " + b64(releasePIN) + "\nstringData:\n  kms: " + releaseKMS + "\n",
		"hooks": []any{map[string]any{
			"name": "migrate", "kind": "Secret", "path": "shop/templates/hook.yaml", "weight": json.Number("-5"), "events": []any{"pre-upgrade"}, "last_run": map[string]any{"phase": "Succeeded"},
			"manifest": "apiVersion: v1\nkind: Secret\nmetadata:\n  name: hook\nstringData:\n  pin: \"" + releasePIN + "\"\n",
		}},
	}
}

// recordOf is the Secret of a release whose value is data.
func recordOf(data string) string {
	return `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"sh.helm.release.v1.shop.v3","namespace":"prod","resourceVersion":"7"},"data":{"release":` + js(data) + `},"type":"helm.sh/release.v1"}`
}

func closed(t testing.TB, r map[string]any) string {
	t.Helper()
	data, err := closeRelease(r, true, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// read gives a release's value as an agent reads it.
func readRelease(t testing.TB, s *Scoped, data string) string {
	t.Helper()
	var out bytes.Buffer
	if err := s.JSONOf(Ref{Resource: "secrets"}, &out, strings.NewReader(recordOf(data))); err != nil {
		t.Fatal(err)
	}
	v, err := decode(bytes.TrimSpace(out.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return text(at(v, "data", "release"))
}

func opened(t testing.TB, data string) map[string]any {
	t.Helper()
	left := maxReleasesBytes
	r, _, err := openRelease([]byte(data), &left)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReleasesAreMaskedWithin(t *testing.T) {
	t.Parallel()
	s := scoped(t)
	data := closed(t, aRelease())
	if whole := readRelease(t, s, data); !strings.HasPrefix(whole, base64Prefix) || len(whole) != base64.StdEncoding.EncodedLen(markLen) {
		t.Errorf("who stores it gets %s", whole)
	}
	masked := readRelease(t, s.Opening(), data)
	got := opened(t, masked)
	shown := mustEncode(t, got)
	for _, v := range []string{planted, releasePIN, releaseKMS} {
		for _, form := range []string{v, base64.StdEncoding.EncodeToString([]byte(v))} {
			if strings.Contains(shown, form) {
				t.Errorf("%s passed: %s", form, shown)
			}
		}
	}
	// What helm needs is there, in the types that it takes.
	var typed struct {
		Name    string
		Version int
		Info    struct{ Status, Description, Notes string }
		Chart   struct {
			Metadata struct {
				Version    string
				Deprecated bool
			}
			Templates []struct {
				Name string
				Data []byte
			}
			Schema []byte
		}
		Config   map[string]any
		Manifest string
		Hooks    []struct {
			Weight   int
			Manifest string
		}
	}
	if err := json.Unmarshal([]byte(shown), &typed); err != nil {
		t.Fatal(err)
	}
	if typed.Name != "shop" || typed.Version != 3 || typed.Info.Status != "deployed" || typed.Info.Description != "Upgrade complete" || !isMark(typed.Info.Notes) ||
		typed.Chart.Metadata.Version != "0.1.0" || !typed.Chart.Metadata.Deprecated || !isMark(string(typed.Chart.Templates[0].Data)) || typed.Config["debug"] != true || typed.Hooks[0].Weight != -5 {
		t.Errorf("got %s", shown)
	}
	for _, want := range []string{"# Source: shop/templates/app.yaml\n", "kind: Deployment", "name: WHAT\n", "\n  name: app\n"} {
		if !strings.Contains(typed.Manifest, want) {
			t.Errorf("%q isn't in\n%s", want, typed.Manifest)
		}
	}
	if again := readRelease(t, s.Opening(), data); again != masked {
		t.Error("the same release is masked in two ways")
	}
}

// helm writes a record back to change its state.
func TestI8_AReleaseComesBackAsItWas(t *testing.T) {
	t.Parallel()
	s := scoped(t).Opening()
	data := closed(t, aRelease())
	masked := readRelease(t, s, data)
	for name, c := range map[string]struct {
		change func(r map[string]any)
		passes bool
	}{
		"another state": {func(r map[string]any) { r["info"].(map[string]any)["status"] = "superseded" }, true},
		"a hook that ran": {func(r map[string]any) {
			r["hooks"].([]any)[0].(map[string]any)["last_run"] = map[string]any{"phase": "Failed"}
		}, true},
		"members left out":     {func(r map[string]any) { delete(r["chart"].(map[string]any), "schema"); delete(r, "apply_method") }, true},
		"a member more":        {func(r map[string]any) { r["config"].(map[string]any)["more"] = "x" }, false},
		"a value of one's own": {func(r map[string]any) { r["config"].(map[string]any)["debug"] = false }, false},
		"an object of another kind": {func(r map[string]any) {
			r["manifest"] = strings.Replace(text(r["manifest"]), "kind: Secret", "kind: Widget", 1)
		}, false},
		"a mark written otherwise": {func(r map[string]any) {
			r["manifest"] = strings.Replace(strings.Replace(text(r["manifest"]), "kind: Secret", "kind: Widget", 1), "kms: tipstaff-masked-", `kms: "\x74ipstaff-masked-`, 1) + `"`
		}, false},
		"an alias": {func(r map[string]any) {
			r["manifest"] = strings.Replace(text(r["manifest"]), "kms: tipstaff", "more: *x\n  kms: &x tipstaff", 1)
		}, false},
		"as it was":                  {func(map[string]any) {}, true},
		"a mark elsewhere":           {func(r map[string]any) { r["namespace"] = at(r, "config", "auth", "pin") }, false},
		"another text around a mark": {func(r map[string]any) { r["manifest"] = text(r["manifest"]) + "---\nkind: ConfigMap\n" }, false},
		"a value where it is plain":  {func(r map[string]any) { r["info"].(map[string]any)["status"] = at(r, "info", "notes") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, err := s.Originals(Ref{Resource: "secrets"}, []byte(recordOf(data)))
			if err != nil {
				t.Fatal(err)
			}
			sent := opened(t, masked)
			c.change(sent)
			v, err := decode([]byte(recordOf(closed(t, sent))))
			if err != nil {
				t.Fatal(err)
			}
			if where, found := ContainsMark(v); !found || where != "data.release" {
				t.Errorf("the mark is at %q, %t", where, found)
			}
			was, err := decode([]byte(recordOf(closed(t, sent))))
			if err != nil {
				t.Fatal(err)
			}
			restored := o.Restore(v)
			_, left := ContainsMark(restored)
			_, covered := o.Covers(was, restored)
			if passes := !left && covered; passes != c.passes {
				t.Fatalf("it passes: %t, want %t (left %t, covered %t)", passes, c.passes, left, covered)
			}
			if !c.passes {
				return
			}
			want := aRelease()
			want["info"].(map[string]any)["status"] = at(sent, "info", "status")
			if got := opened(t, text(at(restored, "data", "release"))); !equal(got, want) {
				t.Errorf("got %s", mustEncode(t, got))
			}
		})
	}
}

// Between reading a record and writing it back the proxy may have learnt more
// values: what was masked then is restored all the same.
func TestI8_AReleaseComesBackThoughMoreIsKnown(t *testing.T) {
	t.Parallel()
	s := scoped(t).Opening()
	const shown = "registry-Zr8-correct-horse-77Q"
	real := aRelease()
	real["manifest"] = strings.Replace(text(real["manifest"]), "name: WHAT,", "name: LATER, value: "+shown+"}\n        - {name: WHAT,", 1)
	data := closed(t, real)
	sent := readRelease(t, s, data)
	if !strings.Contains(text(opened(t, sent)["manifest"]), shown) {
		t.Fatal("it is masked already")
	}
	s.known.learn([]byte(shown), inSecret, s.run)
	o, err := s.Originals(Ref{Resource: "secrets"}, []byte(recordOf(data)))
	if err != nil {
		t.Fatal(err)
	}
	v, err := decode([]byte(recordOf(sent)))
	if err != nil {
		t.Fatal(err)
	}
	was, err := decode([]byte(recordOf(sent)))
	if err != nil {
		t.Fatal(err)
	}
	restored := o.Restore(v)
	if where, left := ContainsMark(restored); left {
		t.Fatalf("a mark is left at %s", where)
	}
	if where, ok := o.Covers(was, restored); !ok {
		t.Fatalf("%s shows more", where)
	}
	if got := opened(t, text(at(restored, "data", "release"))); !equal(got, real) {
		t.Errorf("it became %s", mustEncode(t, got))
	}
}

// What quotes a record, or writes its marks in another way, isn't restored, or is
// shown masked as before.
func TestI8_NoRecordIsRestoredElsewhere(t *testing.T) {
	t.Parallel()
	s := scoped(t).Opening()
	data := closed(t, aRelease())
	real := strings.Replace(recordOf(data), `"data":{`, `"data":{"extra":"`+planted64+`",`, 1)
	ref := Ref{Resource: "secrets"}
	o, err := s.Originals(ref, []byte(real))
	if err != nil {
		t.Fatal(err)
	}
	shown, extra := text(at(o.masked, "data", "release")), text(at(o.masked, "data", "extra"))
	escaped := func(r map[string]any) string { // with the marks' first letter escaped
		raw := strings.ReplaceAll(mustEncode(t, r), MarkPrefix, `\u0074`+MarkPrefix[1:])
		var b bytes.Buffer
		zw := gzip.NewWriter(&b)
		_, _ = zw.Write([]byte(raw)) // to a buffer
		_ = zw.Close()
		return base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString(b.Bytes())))
	}
	widget := opened(t, shown)
	widget["manifest"] = strings.ReplaceAll(text(widget["manifest"]), "kind: Secret", "kind: Widget")
	for name, body := range map[string]string{
		"as another kind, the annotation covering": `{"kind":"FooList","data":{"release":` + js(shown) + `},"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":` + js(`{"data":{"extra":"`+extra+`"}}`) + `}}}`,
		"in an annotation":                         `{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":` + js(`{"kind":"FooList","data":{"release":"`+shown+`","extra":"`+extra+`"}}`) + `}}}`,
		"in an annotation within one":              `{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":` + js(`{"kind":"FooList","data":{"release":"`+shown+`"},"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":`+js(`{"data":{"extra":"`+extra+`"}}`)+`}}}`) + `}}}`,
		"with escapes":                             `{"data":{"extra":"` + extra + `","release":` + js(escaped(widget)) + `}}`,
		"with escapes alone":                       `{"data":{"release":` + js(escaped(widget)) + `}}`,
		"with a line break":                        `{"data":{"release":` + js("\n"+shown[:7]+"\n"+shown[7:]) + `,"other":"` + extra + `"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, err := s.Originals(ref, []byte(real))
			if err != nil {
				t.Fatal(err)
			}
			v, err := decode([]byte(body))
			if err != nil {
				t.Fatal(err)
			}
			if _, found := ContainsMark(v); !found {
				t.Error("no mark is seen in it")
			}
			was, err := decode([]byte(body))
			if err != nil {
				t.Fatal(err)
			}
			restored := o.Restore(v)
			_, left := ContainsMark(restored)
			_, covered := o.Covers(was, restored)
			if name == "as another kind, the annotation covering" && !left && covered {
				return // the API server changes no kind: it stays a Secret, and masked
			}
			if !left && covered {
				t.Errorf("it passes as %s", mustEncode(t, restored))
			}
		})
	}
}

// Two marks in one annotation: each must be masked where it stands.
func TestI8_MarksInAnAnnotationAreComparedOneByOne(t *testing.T) {
	t.Parallel()
	s := scoped(t)
	ref := Ref{Resource: "deployments"}
	object := `{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"d"},"spec":{"template":{"spec":{"containers":[{"name":"c","env":[{"name":"PASSWORD","value":"hunter2"}]}]}}}}`
	o, err := s.Originals(ref, []byte(object))
	if err != nil {
		t.Fatal(err)
	}
	raw := mustEncode(t, o.masked)
	mark := raw[strings.Index(raw, MarkPrefix):][:markLen]
	for _, first := range []string{mark, `\u0074` + mark[1:]} {
		applied := `{"spec":{"template":{"spec":{"containers":[{"name":"c","env":[{"value":"` + first + `"},{"name":"PASSWORD","value":"` + mark + `"}]}]}}}}`
		body := `{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":` + js(applied) + `}}}`
		v, err := decode([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		was, err := decode([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		restored := o.Restore(v)
		_, left := ContainsMark(restored)
		if _, covered := o.Covers(was, restored); !left && covered {
			t.Errorf("it passes as %s", mustEncode(t, restored))
		}
	}
}

// Charts have hooks of one name, dashboards and aliases; others have bombs.
func TestReleasesOfEveryShape(t *testing.T) {
	t.Parallel()
	s := scoped(t).Opening()
	with := func(change func(r map[string]any)) string {
		r := aRelease()
		change(r)
		return closed(t, r)
	}
	hook := func(kind, more string) map[string]any {
		return map[string]any{"name": "x", "kind": kind, "manifest": "# a comment\napiVersion: v1\nkind: " + kind + "\nmetadata: {name: x}\n" + more}
	}
	for name, c := range map[string]struct {
		data   string
		within bool
	}{
		"hooks of one name": {with(func(r map[string]any) {
			r["hooks"] = []any{hook("ServiceAccount", ""), hook("Secret", "stringData: {pin: '73519'}\n"), hook("Job", "")}
		}), true},
		"much text": {with(func(r map[string]any) {
			r["manifest"] = text(r["manifest"]) + strings.Repeat("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: d}\ndata: {d.json: '"+strings.Repeat(`{"panel": "sk q~ s. of rate", "x": 1}, `, 2000)+"'}\n", 20)
		}), true},
		"an alias, used as people do": {with(func(r map[string]any) {
			r["manifest"] = "kind: X\na: &a {b: 1}\nc: *a\nd: {<<: *a}\n"
		}), true},
		"an alias of much": {with(func(r map[string]any) {
			r["manifest"] = "kind: X\na: &a " + strings.Repeat("x", 1<<20) + "\nb: [" + strings.Repeat("*a,", 1000) + "]\n"
		}), false},
		"many documents of aliases": {with(func(r map[string]any) {
			r["manifest"] = strings.Repeat("---\nkind: X\na: &a "+strings.Repeat("x", 4<<10)+"\nb: ["+strings.Repeat("*a,", 300)+"]\n", 100)
		}), false},
		"what is very deep": {with(func(r map[string]any) {
			r["manifest"] = "kind: X\na: " + strings.Repeat("[", 900) + strings.Repeat("1,", 100_000) + strings.Repeat("]", 900) + "\n"
		}), false},
		"an object larger than any": {with(func(r map[string]any) {
			r["manifest"] = "kind: X\na: [" + strings.Repeat("1,", maxDocument) + "]\n"
		}), false},
		"many values": {with(func(r map[string]any) {
			r["config"] = map[string]any{"a": slices.Repeat([]any{json.Number("1")}, maxReleaseValues)}
		}), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shown := readRelease(t, s, c.data)
			if within := strings.HasPrefix(shown, packedBase64); within != c.within {
				t.Fatalf("masked within: %t", within)
			}
			if !c.within {
				return
			}
			info := opened(t, shown)
			if got := at(info, "info", "first_deployed"); got != "2026-11-24T00:00:00Z" {
				t.Errorf("it was deployed %v", got)
			}
			o, err := s.Originals(Ref{Resource: "secrets"}, []byte(recordOf(c.data)))
			if err != nil {
				t.Fatal(err)
			}
			if out, ok := o.release(shown, c.data, text(at(o.masked, "data", "release"))); !ok || !equal(opened(t, out), opened(t, c.data)) {
				t.Errorf("restored: %t", ok)
			}
		})
	}
	// What would be larger masked than can be read again is one value, too.
	if _, err := closeRelease(map[string]any{"manifest": strings.Repeat("x", maxReleaseBytes)}, true, gzip.BestSpeed); err == nil {
		t.Error("more is shown than could be sent back")
	}
	// So is a record that a record quotes.
	inner := closed(t, aRelease())
	nested := readRelease(t, s, with(func(r map[string]any) {
		r["manifest"] = "kind: Secret\ndata: {release: " + inner + "}\n"
	}))
	if m := text(opened(t, nested)["manifest"]); strings.Contains(m, packedBase64) || !strings.Contains(m, base64Prefix) {
		t.Errorf("it shows %s", m)
	}
}

// Where helm is told to keep them in ConfigMaps, it is the same.
func TestReleasesInConfigMaps(t *testing.T) {
	t.Parallel()
	s := scoped(t)
	data, err := closeRelease(aRelease(), false, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	record := `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"shop.v3","namespace":"prod"},"data":{"release":` + js(data) + `}}`
	ref := Ref{Resource: "configmaps"}
	var whole, within bytes.Buffer
	if err := s.JSONOf(ref, &whole, strings.NewReader(record)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(whole.String(), `"release":"`+MarkPrefix) {
		t.Errorf("who stores it gets %s", &whole)
	}
	s = s.Opening()
	if err := s.JSONOf(ref, &within, strings.NewReader(record)); err != nil {
		t.Fatal(err)
	}
	v, err := decode(bytes.TrimSpace(within.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if shown := mustEncode(t, opened(t, text(at(v, "data", "release")))); strings.Contains(shown, planted) || strings.Contains(shown, releasePIN) || !strings.Contains(shown, "kind: Deployment") {
		t.Errorf("got %s", shown)
	}
	o, err := s.Originals(ref, []byte(record))
	if err != nil {
		t.Fatal(err)
	}
	if where, found := ContainsMark(v); !found || where != "data.release" {
		t.Errorf("the mark is at %q, %t", where, found)
	}
	restored := o.Restore(v)
	if got := opened(t, text(at(restored, "data", "release"))); !equal(got, aRelease()) {
		t.Errorf("it came back as %s", mustEncode(t, got))
	}
}

// What can't be masked within is masked as one value.
func TestWhatIsNoReleaseIsOneValue(t *testing.T) {
	t.Parallel()
	s := scoped(t).Opening()
	pack := func(text string) string {
		var b bytes.Buffer
		zw := gzip.NewWriter(&b)
		if _, err := zw.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := zw.Close(); err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString(b.Bytes())))
	}
	with := func(change func(r map[string]any)) string {
		r := aRelease()
		change(r)
		return closed(t, r)
	}
	for name, data := range map[string]string{
		"too large":             pack(strings.Repeat(" ", maxReleaseBytes) + mustEncode(t, aRelease())),
		"no JSON":               pack(planted),
		"another object":        pack(`{"name":"` + planted + `"}`),
		"a name twice":          pack(`{"name":"a","name":"` + planted + `","chart":{},"info":{},"version":1}`),
		"cut":                   closed(t, aRelease())[:400],
		"not compressed":        base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(mustEncode(t, aRelease()))))),
		"a manifest of no YAML": with(func(r map[string]any) { r["manifest"] = "a: {" + planted }),
		"a manifest of a text":  with(func(r map[string]any) { r["manifest"] = planted }),
		"a hook's of no YAML":   with(func(r map[string]any) { r["hooks"].([]any)[0].(map[string]any)["manifest"] = "a: {" }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := readRelease(t, s, data); len(got) != base64.StdEncoding.EncodedLen(markLen) || !strings.HasPrefix(got, base64Prefix) {
				t.Errorf("got %.200s", got)
			}
		})
	}
}

// A list of many that unpack to much is bounded.
func TestReleasesOfOneAnswerAreBounded(t *testing.T) {
	t.Parallel()
	const n = 5
	one := closed(t, aRelease())
	size := len(mustEncode(t, aRelease()))
	s := scoped(t).Opening()
	s.opens = 3*size + size/2
	var out bytes.Buffer
	if err := s.JSONOf(Ref{Resource: "secrets"}, &out, strings.NewReader(`{"kind":"SecretList","apiVersion":"v1","items":[`+strings.TrimSuffix(strings.Repeat(recordOf(one)+",", n), ",")+`]}`)); err != nil {
		t.Fatal(err)
	}
	if within, whole := strings.Count(out.String(), packedBase64), strings.Count(out.String(), base64Prefix); within != 3 || whole != n-3 {
		t.Errorf("%d masked within, %d as one value", within, whole)
	}
	// Nor is more looked at for marks.
	left := s.opens
	if where, found := containsMark([]any{one, one, one, one, one}, &left); !found || where != "[3]" {
		t.Errorf("marked: %t, at %q", found, where)
	}
}

// FuzzRelease has whatever release come: what is secret in it never passes, and
// what was read comes back as it was.
func FuzzRelease(f *testing.F) {
	f.Add(mustEncode(f, aRelease()))
	f.Add(`{"name":"a","chart":{"values":[1,{"a":null}],"files":[3]},"info":{"status":[1]},"version":1,"hooks":[[1],"a",{"manifest":"a: &x [1]\nb: *x"}],"manifest":"--- \n%YAML\n"}`)
	f.Add(`{"name":"a","chart":{},"info":{},"version":1,"manifest":"kind: Secret\nstringData: {a: !!binary aHVudGVyMg==}\n---\n[]"}`)
	s := scoped(f).Opening()
	f.Fuzz(func(t *testing.T, in string) {
		v, err := decode([]byte(in))
		r, ok := v.(map[string]any)
		if err != nil || !ok || len(in) > 64<<10 || strings.Contains(in, planted) || strings.Contains(in, MarkPrefix) || strings.Contains(in, `\u`) {
			return
		}
		r["config"] = map[string]any{"a": []any{planted}, "n": r["config"]}
		if chart, ok := r["chart"].(map[string]any); ok {
			chart["values"], chart["files"], chart["templates"] = map[string]any{"a": planted}, planted, []any{planted, chart["templates"]}
		}
		if m, ok := r["manifest"].(string); ok {
			r["manifest"] = m + "\n---\nkind: Secret\nstringData: {k: " + planted + "}\n"
		}
		data := closed(t, r)
		left := maxReleasesBytes
		if _, _, err := openRelease([]byte(data), &left); err != nil {
			return
		}
		masked := readRelease(t, s, data)
		if !strings.HasPrefix(masked, packedBase64) {
			return // as one value
		}
		got := opened(t, masked)
		if shown := mustEncode(t, got); strings.Contains(shown, planted) {
			t.Fatalf("%s\nshows %s", in, shown)
		}
		o, err := s.Originals(Ref{Resource: "secrets"}, []byte(recordOf(data)))
		if err != nil {
			t.Fatal(err)
		}
		again, ok := o.release(masked, data, text(at(o.masked, "data", "release")))
		if !ok || !equal(opened(t, again), opened(t, data)) {
			t.Fatalf("%s\nread as %s\nbecame %s", mustEncode(t, opened(t, data)), mustEncode(t, got), mustEncode(t, opened(t, again)))
		}
	})
}

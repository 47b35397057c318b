package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// randomValue gives a value that nobody guesses.
func randomValue(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.IntN(256))
	}
	return hex.AppendEncode(nil, b)
}

// BenchmarkKeystroke is what each echoed keystroke of a session costs.
func BenchmarkKeystroke(b *testing.B) {
	for _, n := range []int{0, 1000, 100_000} {
		b.Run(fmt.Sprint(n, " values"), func(b *testing.B) {
			s := scoped(b)
			r := rand.New(rand.NewPCG(1, 2))
			for range n {
				s.known.add(randomValue(r, 12), inSecret, s.run)
			}
			text := s.Text(countingWriter(func([]byte) {}))
			if _, err := text.Write([]byte("user@host:~$ kubectl get po")); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := text.Flush(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A text that ends with the beginning of a value is held back there, whatever
// the length of that.
func TestI7_TheBeginningOfAValueIsHeldBack(t *testing.T) {
	t.Parallel()
	s := scoped(t)
	r := rand.New(rand.NewPCG(3, 4))
	var values [][]byte
	for range 300 {
		v := randomValue(r, 12)
		values = append(values, v, append(append([]byte{}, v[:5]...), randomValue(r, 10)...), append(append([]byte{}, v[:12]...), randomValue(r, 4)...))
	}
	for _, v := range values {
		s.known.add(v, inSecret, s.run)
	}
	for _, v := range values {
		for n := range len(v) {
			text := "zz-" + string(v[:n])
			want := 3
			if n < 4 {
				want = len(text)
			}
			if got := s.known.begins([]byte(text)); got != want {
				t.Fatalf("%q of %q: held back from %d", text, v, got)
			}
			if n < 4 {
				continue
			}
			if got := s.known.begins([]byte(text + "\x01")); got != len(text)+1 {
				t.Fatalf("%q of %q, which goes on otherwise: held back from %d", text, v, got)
			}
		}
	}
}

func masked(t *testing.T, s *Scoped, resource, in string) {
	t.Helper()
	if err := s.JSONOf(Ref{Resource: resource}, io.Discard, strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
}

func secretOf(name string, v []byte) string {
	return `{"kind":"Secret","metadata":{"name":"` + name + `"},"data":{"k":"` + base64.StdEncoding.EncodeToString(v) + `"}}`
}

// flood gives values for a map, of about so many bytes.
func flood(r *rand.Rand, size int) string {
	var b strings.Builder
	for b.Len() < size {
		fmt.Fprintf(&b, `%q:"%s",`, fmt.Sprint("p", b.Len(), ".password"), randomValue(r, 450))
	}
	return strings.TrimSuffix(b.String(), ",")
}

var reviews = regexp.MustCompile(`"p[^"]*":("[^"]*")`)

func TestI7_WhatAgentsWriteEvictsNoSecretsValue(t *testing.T) {
	t.Parallel()
	for name, object := range map[string][2]string{
		"ConfigMaps":                 {"configmaps", `{"kind":"ConfigMap","metadata":{"name":"x"},"data":{%s}}`},
		"Secrets that others quote":  {"pods", `{"kind":"Pod","metadata":{"name":"x","annotations":{"x":"{\"kind\":\"Secret\",\"stringData\":{%s}}"}}}`},
		"what calls itself a Secret": {"widgets", `{"kind":"Secret","metadata":{"name":"x"},"stringData":{%s}}`},
		"token reviews":              {"tokenreviews", `{"kind":"TokenReviewList","items":[%s]}`},
		"errors":                     {"secrets", `{"kind":"Status","reason":"NotFound","message":"x: Invalid value: {\"kind\":\"Secret\",\"stringData\":{%s}}"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := scoped(t)
			r := rand.New(rand.NewPCG(5, 6))
			value, before := randomValue(r, 12), randomValue(r, 12)
			// One that was found elsewhere before is a Secret's from then on.
			masked(t, s, "configmaps", `{"kind":"ConfigMap","metadata":{"name":"x"},"data":{"password":"`+string(before)+`"}}`)
			masked(t, s, "secrets", secretOf("a", value))
			masked(t, s, "secrets", secretOf("b", before))
			for range 20 {
				values := flood(r, 900<<10)
				switch {
				case object[0] == "tokenreviews":
					values = reviews.ReplaceAllString(values, `{"spec":{"token":$1}}`)
				case strings.Contains(object[1], `\"`):
					values = strings.ReplaceAll(values, `"`, `\"`)
				}
				masked(t, s.Unlinked(), object[0], fmt.Sprintf(object[1], values))
			}
			for _, v := range [][]byte{value, before, []byte(base64.StdEncoding.EncodeToString(value))} {
				if got := texted(t, s, "out: "+string(v)+"\n"); strings.Contains(got, string(v)) {
					t.Errorf("it passed: %s", got)
				}
			}
			if k := s.known; k.rooms[elsewhere].bytes > maxFoundBytes || k.gone.Load() == 0 {
				t.Errorf("%d bytes are kept, %d values gone", k.rooms[elsewhere].bytes, k.gone.Load())
			}
		})
	}
}

func TestI7_NoRunPushesOutAnothersValues(t *testing.T) {
	t.Parallel()
	m, err := New(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(7, 8))
	secret, found, own := randomValue(r, 12), randomValue(r, 12), randomValue(r, 12)
	masked(t, m.Scope("one"), "secrets", secretOf("a", secret))
	masked(t, m.Scope("one"), "configmaps", `{"kind":"ConfigMap","data":{"password":"`+string(found)+`"}}`)
	other := m.Scope("other")
	masked(t, other, "secrets", secretOf("b", own))
	for i := range 40 {
		values := flood(r, 900<<10)
		masked(t, other, "configmaps", `{"kind":"ConfigMap","data":{`+values+`}}`)
		masked(t, other, "secrets", fmt.Sprintf(`{"kind":"Secret","metadata":{"name":"flood-%d"},"stringData":{%s}}`, i, values))
	}
	for _, v := range [][]byte{secret, found} {
		if !m.known.has(v) {
			t.Error("a run's value was pushed out by another one")
		}
	}
	for i, most := range []int{maxSecretBytes, maxFoundBytes} {
		if got := m.known.rooms[i].bytes; got > most || got < most/2 {
			t.Errorf("%d bytes of %d are taken", got, most)
		}
	}
	if m.known.has(own) {
		t.Fatal("the run that flooded lost nothing")
	}
	// What was forgotten is known again when it is read again.
	masked(t, other, "secrets", secretOf("b", own))
	if !m.known.has(own) {
		t.Error("it was read again and isn't known")
	}
}

// A value is known from where it is a secret on, whatever it was before.
func TestI7_AValueIsKnownWhereverItWasMaskedBefore(t *testing.T) {
	t.Parallel()
	s := scoped(t)
	r := rand.New(rand.NewPCG(13, 14))
	for _, in := range []string{`{"kind":"Secret","metadata":{"name":"x"},"data":{"username":"%s"}}`, `{"metadata":{"name":"x"},"data":{"k":"%[1]s"}}`} {
		v := randomValue(r, 12)
		masked(t, s, "", fmt.Sprintf(in, base64.StdEncoding.EncodeToString(v)))
		if s.known.has(v) {
			t.Errorf("known from %s", in)
		}
		masked(t, s, "", secretOf("x", v))
		if !s.known.has(v) {
			t.Errorf("not known after %s", in)
		}
	}
}

func TestAHugeSecretTakesLittle(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(9, 10))
	var lines []string
	for range 20_000 {
		lines = append(lines, string(randomValue(r, 12)))
	}
	var members []string
	for i, l := range lines {
		members = append(members, fmt.Sprintf(`"%d":"%s"`, i, l))
	}
	for name, tc := range map[string]struct {
		data  string
		least int
	}{
		"one value of many lines": {`"k":` + js(strings.Join(lines, "\n")), 1000},
		"many values":             {strings.Join(members, ","), 2000},
	} {
		s := scoped(t)
		for range 3 {
			masked(t, s, "secrets", `{"kind":"Secret","metadata":{"name":"x"},"stringData":{`+tc.data+`}}`)
		}
		if got := s.known.rooms[inSecret].bytes; got > maxObjectsValues {
			t.Errorf("%s: %d bytes are kept", name, got)
		}
		if got := int(s.known.count.Load()); got < tc.least {
			t.Errorf("%s: %d values are kept", name, got)
		}
	}
}

// What comes and goes leaves the store in order: it finds what a search of
// everything would.
func TestKnownValuesAreKeptInOrder(t *testing.T) {
	t.Parallel()
	k := new(knownValues)
	r := rand.New(rand.NewPCG(11, 12))
	kept := func() (all []*known) {
		for _, same := range k.heads {
			all = append(all, same...)
		}
		return all
	}
	pool := [][]byte{randomValue(r, 12)}
	for i := range 6000 {
		// Many begin alike, many with another whole one.
		v := slices.Clone(pool[r.IntN(len(pool))])
		if r.IntN(2) == 0 {
			v = v[:r.IntN(len(v))]
		}
		if r.IntN(4) > 0 || len(v) < 2*minValue {
			v = append(v, randomValue(r, 12+r.IntN(40))...)
		}
		pool = append(pool, v)
		run := r.IntN(5)
		if r.IntN(4) == 0 {
			run = i
		}
		k.add(v, source(r.IntN(2)), v1alpha1.RunKey(fmt.Sprint(run)))
		if i == 0 {
			k.rooms[inSecret].most, k.rooms[elsewhere].most = 300<<10, 100<<10
		}
		if i%500 != 499 {
			continue
		}
		if i%1000 == 999 {
			k.stale = headBits // as after very many
		}
		all := kept()
		var bytesOf [2]int
		for _, e := range all {
			bytesOf[e.in.from] += cost(e.v)
			if k.rooms[e.in.from].shares[e.in.run] != e.in {
				t.Fatal("a value's share is none of its room")
			}
		}
		for _, room := range k.rooms {
			for run, share := range room.shares {
				if share.bytes <= 0 {
					t.Fatalf("run %s, which has nothing any more, is kept", run)
				}
			}
		}
		heads := 0
		for _, list := range k.tails {
			heads += len(list)
		}
		if len(all) != int(k.count.Load()) || bytesOf[0] != k.rooms[0].bytes || bytesOf[1] != k.rooms[1].bytes || heads != len(k.heads) ||
			bytesOf[0] > k.rooms[0].most || bytesOf[1] > k.rooms[1].most {
			t.Fatalf("%d values of %v bytes with %d heads; counted %d, %d, %d, %d", len(all), bytesOf, heads, k.count.Load(), k.rooms[0].bytes, k.rooms[1].bytes, len(k.heads))
		}
		for range 1000 {
			text := slices.Clone(all[r.IntN(len(all))].v)
			text = append(text[:minValue+r.IntN(len(text)-minValue+1)], randomValue(r, 20)...)
			longest := 0
			for _, e := range all {
				if bytes.HasPrefix(text, e.v) {
					longest = max(longest, len(e.v))
				}
			}
			got := 0
			if spans := k.find(text, nil); len(spans) > 0 && spans[0].from == 0 {
				got = spans[0].to
			}
			if got != longest {
				t.Fatalf("found %d bytes, not %d", got, longest)
			}
		}
	}
	if k.gone.Load() == 0 {
		t.Error("nothing was forgotten")
	}
}

package mask

import (
	"bytes"
	"strings"
	"testing"
)

const fuzzKnown = "Zr8-correct-horse-77Q"

// FuzzText has whatever text come in whatever pieces: a known value never
// passes, and what comes out is the same however it was cut.
func FuzzText(f *testing.F) {
	f.Add("a "+fuzzKnown+" b\n", 3, 9, true)
	f.Add("PASSWORD="+fuzzKnown, 1, 12, false)
	f.Add("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\n", 20, 40, false)
	f.Add(strings.Repeat("x", maxHeld)+fuzzKnown+"\n", maxHeld-3, maxHeld+4, true)
	f.Add("postgres://u:"+githubToken+"@h/", 13, 20, true)
	s := scoped(f)
	s.known.learn([]byte(fuzzKnown))
	f.Fuzz(func(t *testing.T, in string, a, b int, flush bool) {
		if len(in) > 64<<10 {
			return
		}
		write := func(pieces ...string) string {
			var out bytes.Buffer
			text := s.Text(&out)
			for _, p := range pieces {
				if n, err := text.Write([]byte(p)); err != nil || n != len(p) {
					t.Fatal(n, err)
				}
				if flush {
					if err := text.Flush(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := text.Close(); err != nil {
				t.Fatal(err)
			}
			return out.String()
		}
		a, b = max(0, min(a, len(in))), max(0, min(b, len(in)))
		a, b = min(a, b), max(a, b)
		got := write(in[:a], in[a:b], in[b:])
		if strings.Contains(got, fuzzKnown) && !flush {
			t.Fatalf("it passed in pieces: %q", got)
		}
		whole := write(in)
		if strings.Contains(whole, fuzzKnown) {
			t.Fatalf("it passed: %q", whole)
		}
		if !flush && got != whole && len(in) < maxHeld {
			t.Fatalf("in pieces %q, as one %q", got, whole)
		}
	})
}

// FuzzRestore has whatever object come back for one that was read: what is
// restored is never a mark, and nothing else than the marks changes.
func FuzzRestore(f *testing.F) {
	object := `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"s","annotations":{"a":"postgres://u:swordfish@h"}},"data":{"k":"` + planted64 + `"},"list":[{"name":"a","password":"one-password"},{"name":"b","password":"two-password"}]}`
	s := scoped(f)
	var masked bytes.Buffer
	if err := s.JSONOf(Ref{Resource: "secrets"}, &masked, strings.NewReader(object)); err != nil {
		f.Fatal(err)
	}
	o, err := s.Originals(Ref{Resource: "secrets"}, []byte(object))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(masked.String(), "/data/k")
	f.Add(`{"stringData":{"k":"`+s.String(planted)+`"}}`, "")
	f.Add(`[{"op":"test","path":"/list/0/password","value":"x"}]`, "/list/-1")
	f.Fuzz(func(t *testing.T, in, pointer string) {
		_ = o.hides(pointer)
		v, err := decode([]byte(in))
		if err != nil {
			return
		}
		if ops, ok := v.([]any); ok {
			_ = o.Patch(ops)
			return
		}
		_, before := ContainsMark(v)
		plain := mustEncode(t, v)
		out := mustEncode(t, o.Restore(v))
		if !before && out != plain {
			t.Fatalf("%s became %s", plain, out)
		}
	})
}

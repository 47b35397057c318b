package mask

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
)

const fuzzKnown = "Zr8-correct-horse-77Q"

var anyMark = regexp.MustCompile(MarkPrefix + "[0-9a-f]{20}")

// unmarked makes all marks the same: those of weak values in what has no name
// are others each time.
func unmarked(s string) string { return anyMark.ReplaceAllString(s, "mark") }

// FuzzText has whatever text come in whatever pieces: a known value and a
// private key never pass, and what comes out is the same however it was cut.
func FuzzText(f *testing.F) {
	f.Add("a "+fuzzKnown+" b\n", 3, 9, true)
	f.Add("PASSWORD="+fuzzKnown, 1, 12, false)
	f.Add("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\n", 20, 40, false)
	f.Add(strings.Repeat("x", maxHeld)+fuzzKnown+"\n", maxHeld-3, maxHeld+4, true)
	f.Add(keyLast+"\n", 40, 120, true)
	f.Add("x"+keyLast+" "+keyFirst, 100, 180, true)
	f.Add("postgres://u:"+githubToken+"@h/", 13, 20, true)
	s := scoped(f)
	s.known.learn([]byte(fuzzKnown), inSecret, s.run)
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
		// A private key in one line doesn't either, whatever follows it.
		key := keyFirst + `\n` + keyPart + keyPart + in
		if x, y := max(0, min(a, b, len(key))), min(len(key), max(a, b, 0)); !leaksKey(in) && leaksKey(write(key[:x], key[x:y], key[y:])) {
			t.Fatalf("a key passed: %q", write(key[:x], key[x:y], key[y:]))
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
		for again := 0; !flush && unmarked(got) != unmarked(whole) && len(in) < maxHeld; again++ {
			if again == 3 {
				t.Fatalf("in pieces %q, as one %q", got, whole)
			}
			// What was found the first time is known now.
			whole, got = write(in), write(in[:a], in[a:b], in[b:])
		}
	})
}

// FuzzRestore has whatever object, merge patch or JSON patch come back for one
// that was read: nothing else than marks changes, and where what was restored is
// let pass, the object that results shows no real value to who reads it.
func FuzzRestore(f *testing.F) {
	const password, token = "one-password", "sw0rdfish"
	object := `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"s","annotations":{"a":"postgres://u:` + token + `@h"}},"data":{"k":"` + planted64 + `"},"list":[{"name":"a","password":"` + password + `"},{"name":"b","password":"two-password"}],"spec":{"containers":[{"name":"c","args":["--token","` + token + `","x"],"env":[{"name":"DB_PASSWORD","value":"` + password + `"}]}]}}`
	s := scoped(f)
	ref := Ref{Resource: "secrets"}
	read := func(t testing.TB, object string) string {
		var masked bytes.Buffer
		if err := s.JSONOf(ref, &masked, strings.NewReader(object)); err != nil {
			t.Fatal(err)
		}
		return masked.String()
	}
	masked := read(f, object)
	o, err := s.Originals(ref, []byte(object))
	if err != nil {
		f.Fatal(err)
	}
	mark := masked[strings.LastIndex(masked, MarkPrefix):][:markLen]
	f.Add(masked)
	f.Add(`{"stringData":{"k":"` + s.String(planted) + `"}}`)
	f.Add(`[{"op":"replace","path":""}]`)
	f.Add(`[{"op":"test","path":"/list/0/password","value":"x"}]`)
	f.Add(`[{"op":"add","path":"/list/0","value":{"name":"x"}},{"op":"copy","from":"/list/1/password","path":"/type"}]`)
	f.Add(`[{"op":"replace","path":"/spec/containers/0/args/0","value":"echo"}]`)
	f.Add(`[{"op":"replace","path":"/spec/containers/0/env/0/name","value":"COLOUR"}]`)
	f.Add(`{"spec":{"containers":[{"name":"c","env":[{"name":"COLOUR","value":"` + mark + `"}]}]}}`)
	f.Add(`{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"kind\":\"Status\",\"data\":{\"k\":\"` + masked[strings.Index(masked, base64Prefix):][:48] + `\"}}"}}}`)
	f.Fuzz(func(t *testing.T, in string) {
		v, err := decode([]byte(in))
		if err != nil {
			return
		}
		sent := mustEncode(t, v)
		var restored any
		if _, isPatch := v.([]any); isPatch {
			made, err := o.Patch([]byte(in))
			if err != nil {
				return
			}
			copied, err := decode([]byte(mustEncode(t, made)))
			if err != nil {
				t.Fatal(err)
			}
			v, restored = made, o.Restore(copied)
		} else {
			_, before := ContainsMark(v)
			if v, err = decode([]byte(sent)); err != nil {
				t.Fatal(err)
			}
			copied, err := decode([]byte(sent))
			if err != nil {
				t.Fatal(err)
			}
			restored = o.Restore(copied)
			if now := mustEncode(t, restored); !before && now != sent {
				t.Fatalf("%s became %s", sent, now)
			}
		}
		if _, left := ContainsMark(restored); left {
			return
		}
		if _, ok := o.Covers(v, restored); !ok {
			return
		}
		if _, ok := restored.(map[string]any); !ok {
			return
		}
		for _, result := range []string{mustEncode(t, restored), patchedBy(t, object, mustEncode(t, restored))} {
			var kind struct{ Kind any }
			if json.Unmarshal([]byte(result), &kind) != nil || kind.Kind != "Secret" {
				continue // the API server takes no other kind at this path
			}
			shown := read(t, result)
			for _, value := range []string{planted64, planted, password, token} {
				if strings.Contains(shown, value) && !strings.Contains(sent, value) {
					t.Fatalf("%s\nmade %s\nwhich shows %s", sent, result, shown)
				}
			}
		}
	})
}

func patchedBy(t *testing.T, object, patch string) string {
	out, err := jsonpatch.MergePatch([]byte(object), []byte(patch))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

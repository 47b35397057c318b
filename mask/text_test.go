package mask

import (
	"bytes"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

const (
	keyFirst = "-----BEGIN PRIVATE KEY-----"
	keyLast  = "-----END PRIVATE KEY-----"
	keyPart  = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"
)

// texted gives what comes out of pieces, of which an empty one is a silence.
func texted(t testing.TB, s *Scoped, pieces ...string) string {
	t.Helper()
	var out bytes.Buffer
	text := s.Text(&out)
	for _, p := range pieces {
		if p == "" {
			if err := text.Flush(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if n, err := text.Write([]byte(p)); err != nil || n != len(p) {
			t.Fatal(n, err)
		}
	}
	if err := text.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestI7_APrivateKeyInOneLineIsMaskedHoweverItComes(t *testing.T) {
	t.Parallel()
	s := scoped(t)
	long := strings.Repeat("lorem ipsum ", 1400)
	for name, line := range map[string]string{
		"in JSON":              `{"type":"x","private_key":"` + keyFirst + `\n` + keyPart + `\n` + keyPart + `\n` + keyLast + `\n"}` + "\n",
		"under another name":   `{"k":"` + keyFirst + `\n` + keyPart + `\n` + keyPart + `\n` + keyLast + `\n"}` + "\n",
		"late in a long line":  long + keyFirst + `\n` + keyPart + `\n` + keyPart + `\n` + keyLast + "\n",
		"two of them":          keyFirst + `\n` + keyPart + keyLast + " " + keyFirst + keyPart + keyPart + keyLast + "\n",
		"one that has no end":  keyFirst + `\n` + keyPart + "\n",
		"a longer one":         keyFirst + `\n` + strings.Repeat(keyPart+`\n`, 600) + keyLast + "\n",
		"within a longer text": "a " + keyFirst + `\n` + keyPart + keyPart + keyLast + " z\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begin := strings.Index(line, keyFirst)
			step := max(1, (len(line)-begin)/1000*20)
			for cut := begin + 1; cut < len(line); cut += step {
				for _, pieces := range [][]string{{line[:cut], line[cut:]}, {line[:cut], "", line[cut:]}, {line[:cut], "", line[cut : cut+(len(line)-cut)/2], "", line[cut+(len(line)-cut)/2:]}} {
					if got := texted(t, s, pieces...); leaksKey(got) {
						t.Fatalf("cut at %d into %d: %s", cut-begin, len(pieces), got)
					}
				}
			}
			if got := texted(t, s, strings.SplitAfter(line, "")...); leaksKey(got) {
				t.Errorf("byte by byte: %s", got)
			}
		})
	}
}

// leaksKey reports whether 16 bytes of the key's middle stand in got.
func leaksKey(got string) bool {
	for i := 0; i+16 <= len(keyPart); i++ {
		if strings.Contains(got, keyPart[i:i+16]) {
			return true
		}
	}
	return false
}

func TestWhatStandsAroundAPrivateKeyPasses(t *testing.T) {
	t.Parallel()
	s := scoped(t)
	in := "before\n " + keyFirst + "\n" + keyPart + "\r\n\n" + keyPart + "\n" + keyLast + " after\nthe end"
	mark := s.String(keyPart)
	if got, want := texted(t, s, in), "before\n "+keyFirst+"\n"+mark+"\r\n\n"+mark+"\n"+keyLast+" after\nthe end"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	for _, in := range []string{
		"-----BEGIN CERTIFICATE-----\n" + keyPart + "\n-----END CERTIFICATE-----\n",
		"where BEGIN PRIVATE KEY stands\nall passes\n",
		"-----BEGIN with no PRIVATE KEY in it\nall passes\n",
	} {
		if got := texted(t, scoped(t), in); got != in {
			t.Errorf("got %q of %q", got, in)
		}
	}
}

func TestI7_OtherSecretsOnAPrivateKeysFirstAndLastLine(t *testing.T) {
	t.Parallel()
	s := scoped(t)
	s.known.learn([]byte(fuzzKnown), inSecret, s.run)
	for _, in := range []string{
		fuzzKnown + " " + keyFirst + "\n" + keyPart + "\n" + keyLast + "\n",
		keyFirst + "\n" + keyPart + "\n" + keyLast + " " + fuzzKnown + "\n",
		"db_password=" + fuzzKnown[1:] + " " + keyFirst + " \n" + keyPart + "\n" + keyLast + "\n",
		keyFirst + "\n" + keyPart + "\n" + keyLast + " db_password=" + fuzzKnown[1:] + "\n",
		keyFirst + "\n" + keyPart + "-----END " + fuzzKnown + "\n",
		keyFirst + fuzzKnown + "\n" + keyPart + "\n" + keyLast + keyFirst + "\n" + keyPart + "\n",
	} {
		for _, got := range []string{texted(t, s, in), texted(t, s, in[:30], "", in[30:])} {
			if strings.Contains(got, fuzzKnown[1:]) || leaksKey(got) {
				t.Errorf("it passed: %q", got)
			}
		}
	}
}

func TestI7_ALongValueIsFoundInPieces(t *testing.T) {
	t.Parallel()
	s := scoped(t)
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{maxHeld/2 - 1, maxHeld / 2, maxHeld, maxValue/2 - 100} {
		v := string(randomValue(r, size))
		s.known.learn([]byte(v), inSecret, s.run)
		for _, step := range []int{1000, maxHeld, 32 << 10} {
			var pieces []string
			for line := "the value: " + v + " it was\n"; line != ""; {
				n := min(step, len(line))
				pieces, line = append(pieces, line[:n], ""), line[n:]
			}
			if got := texted(t, s, pieces...); got != "the value: "+s.String(v)+" it was\n" {
				t.Errorf("%d bytes by %d: %.300s", len(v), step, got)
			}
		}
	}
}

func TestI7_ACharacterCutInTwoHidesNothing(t *testing.T) {
	t.Parallel()
	s := scoped(t)
	for _, pad := range []int{0, maxHeld - 9, 2*maxHeld - 9, 3 * maxHeld} {
		line := strings.Repeat("é", pad/2) + " password=hunter2 é\n"
		for cut := len(line) - 30; cut < len(line); cut++ {
			if got := texted(t, s, line[:max(cut, 0)], "", line[max(cut, 0):]); strings.Contains(got, "hunter2") {
				t.Errorf("after %d bytes, cut %d before the end: %s", pad, len(line)-cut, got[max(0, len(got)-200):])
			}
		}
	}
}

func TestI7_AValueThatEndsWithinACharacterIsFoundAtTheEnd(t *testing.T) {
	t.Parallel()
	s := scoped(t)
	v := fuzzKnown + "\xc3"
	s.known.learn([]byte(v), inSecret, s.run)
	if got := texted(t, s, "x "+v); got != "x "+s.String(v) {
		t.Errorf("got %q", got)
	}
}

// What an agent prints must not fill the proxy's memory, ended by a newline or not.
func TestALineWithoutEndIsHeldInBoundedMemory(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	pattern := "a line that never ends, of many words; "
	for name, tc := range map[string]struct {
		begin, pattern string
		passes         bool
	}{
		"words":              {"", pattern, true},
		"one word":           {"", "abcdefgh", true},
		"JSON":               {"", `{"a":"b"},`, true},
		"assignments":        {"", "a=b;", true},
		"zeroes":             {"", "\x00", true},
		"a key":              {keyFirst + "\n", "a", false},
		"a key in words":     {keyFirst + "\n", pattern, false},
		"a key in this line": {"x " + keyFirst, "abcdefgh", false},
		"keys that begin":    {"", keyFirst, false},
		"ends of keys":       {keyFirst, keyFirst + " " + keyLast + " ", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := scoped(t)
			chunk := []byte(strings.Repeat(tc.pattern, (32<<10)/len(tc.pattern)))
			n := 0
			text := s.Text(countingWriter(func(b []byte) { n += len(b) }))
			write := func(b []byte) {
				if _, err := text.Write(b); err != nil {
					t.Fatal(err)
				}
				if err := text.Flush(); err != nil {
					t.Fatal(err)
				}
				if held := cap(text.line) + cap(text.buf); held > 1<<20 {
					t.Fatalf("%d bytes are held", held)
				}
			}
			write([]byte(tc.begin))
			for range size / len(chunk) {
				write(chunk)
			}
			if tc.passes != (n > size/8) {
				t.Errorf("%d bytes of %d came out", n, size)
			}
			if err := text.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
	// At once as well.
	s := scoped(t)
	text := s.Text(countingWriter(func([]byte) {}))
	if _, err := text.Write(bytes.Repeat([]byte(pattern), 2*size/len(pattern))); err != nil {
		t.Fatal(err)
	}
	if held := cap(text.line) + cap(text.buf); held > 2<<20 {
		t.Errorf("%d bytes are held", held)
	}
}

// Keywords of two letters are looked for among a token's bytes only: a format
// that is new here must be of that kind, too.
func TestFormatsOfBriefKeywords(t *testing.T) {
	t.Parallel()
	s := scoped(t)
	samples := map[string]string{
		"azure-ad-client-secret": "abc8Q~dEfGhIjKlMnOpQrStUvWxYz01234567890",
		"twilio-api-key":         "SK0123456789abcdef0123456789abcdef",
		"vault-service-token":    "s.a1B2c3D4e5F6g7H8i9J0k1L2",
	}
	for _, k := range s.detect.brief {
		id := s.detect.formats[k.format].rule.RuleID
		sample, known := samples[id]
		if !known {
			t.Errorf("%s is new: does a run of token's bytes hold all of it?", id)
			continue
		}
		for _, around := range []string{"%s", "it is %s", "risk s. it is %s and so on", `{"a":"%s"}`, "x=%s\n"} {
			var out bytes.Buffer
			w := s.Text(&out)
			_, _ = io.WriteString(w, strings.Replace(around, "%s", sample, 1)) // to a buffer
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(out.String(), sample) || !strings.Contains(out.String(), MarkPrefix) {
				t.Errorf("%s passed: %s", id, &out)
			}
		}
	}
	if len(s.detect.brief) != len(samples) {
		t.Errorf("%d formats of %d", len(s.detect.brief), len(samples))
	}
}

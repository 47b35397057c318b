package conformance

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
)

const planted = `Xk4Rt9Lq2z%"<&\Vb7Wm3Np8y`

var wraps = []struct {
	name string
	wrap func(string) string
	want string
}{
	{"as it is", func(v string) string { return v }, "plain"},
	{"base64 from its beginning", func(v string) string { return b64(v) }, "base64"},
	{"base64 one byte in", func(v string) string { return b64("x" + v + "yz") }, "base64"},
	{"base64 two bytes in", func(v string) string { return b64("xx" + v + "yz") }, "base64"},
	{"base64 of the URL alphabet, unpadded", func(v string) string { return base64.RawURLEncoding.EncodeToString([]byte("a" + v)) }, "base64"},
	{"base64 of base64", func(v string) string { return b64(b64(v)) }, "base64 of base64"},
	{"base64 of base64, both off their groups", func(v string) string { return b64("p" + b64("pw"+v)) }, "base64 of base64"},
	{"hex", func(v string) string { return hex.EncodeToString([]byte(v)) }, "hex"},
	{"upper-case hex", func(v string) string { return strings.ToUpper(hex.EncodeToString([]byte(v))) }, "hex"},
	{"bytes as Go prints them", func(v string) string { return fmt.Sprintf("%v", []byte(v)) }, "byte numbers"},
	{"bytes as Go's syntax", func(v string) string { return fmt.Sprintf("%#v", []byte(v)) }, "byte numbers"},
	{"in a JSON string", quoted, "plain in escapes"},
	{"in a JSON string in a JSON string", func(v string) string { return quoted(quoted(v)) }, "plain in escapes in escapes"},
	{"in three JSON strings", func(v string) string { return quoted(quoted(quoted(v))) }, "plain in escapes in escapes in escapes"},
	{"every letter escaped", func(v string) string {
		var b strings.Builder
		for _, c := range []byte(v) {
			fmt.Fprintf(&b, `\u%04x`, c)
		}
		return b.String()
	}, "plain in escapes"},
	{"as Go quotes it", func(v string) string { return fmt.Sprintf("%q", v) }, "plain in escapes"},
	{"in a URL's path", url.PathEscape, "plain in URL escapes"},
	{"in a query", url.QueryEscape, "plain in URL escapes"},
	{"gzip in base64", func(v string) string { return b64(packed(v)) }, "plain in base64"},
	{"a Helm release's", func(v string) string { return b64(b64(packed(quoted(v)))) }, "plain in escapes in base64 in base64"},
	{"a piece as JSON in base64", func(v string) string { return b64(quoted(piece(v))) }, "plain in escapes in base64"},
	{"a piece of twelve", func(v string) string { return v[5 : 5+windowBytes] }, "plain"},
}

// piece is of the middle of v, so that no nine letters stand together.
func piece(v string) string { return v[min(6, len(v)):min(20, len(v))] }

func b64(v string) string { return base64.StdEncoding.EncodeToString([]byte(v)) }

func quoted(v string) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func packed(v string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(v))
	_ = w.Close()
	return b.String()
}

func scanner(t testing.TB, values ...string) *Scanner {
	t.Helper()
	var vs []Value
	for _, v := range values {
		vs = append(vs, Value{Place: "test", Secret: []byte(v)})
	}
	s, err := NewScanner(vs)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestScanFindsEveryForm(t *testing.T) {
	t.Parallel()
	s := scanner(t, "another value altogether", planted)
	for _, tc := range wraps {
		got := s.Scan([]byte(`{"data":{"k":"` + tc.wrap(planted) + `"}}`))
		if want := []Hit{{1, tc.want}}; !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", tc.name, got, want)
		}
		if got := s.Scan([]byte(tc.wrap(strings.Repeat("nothing of it. ", 3)))); len(got) != 0 {
			t.Errorf("%s: %v in a text that holds none", tc.name, got)
		}
	}
	if got := s.Scan([]byte(planted[:windowBytes-1])); len(got) != 0 {
		t.Errorf("a piece of eleven: %v", got)
	}
}

func TestScanFindsSeveral(t *testing.T) {
	t.Parallel()
	s := scanner(t, "first-value-1", "second-value-2", "third-value-3")
	got := s.Scan([]byte("third-value-3 and " + b64("first-value-1")))
	if want := []Hit{{0, "base64"}, {2, "plain"}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAValueTooShortToFindIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := NewScanner([]Value{{Place: "p", Secret: []byte("elevenbytes")}}); err == nil {
		t.Error("a scanner that can find nothing was made")
	}
}

// Hostile answers cost a bounded amount: layers of escapes and packed zeros.
func TestScanIsBounded(t *testing.T) {
	t.Parallel()
	s := scanner(t, planted)
	bomb := packed(strings.Repeat("\\", 64<<20))
	if got := s.Scan([]byte(bomb + b64(bomb))); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func FuzzScan(f *testing.F) {
	for i := range wraps {
		f.Add(uint8(i), []byte("{\"a\":\"\\\\"), []byte("%4"))
	}
	s := scanner(f, planted)
	f.Fuzz(func(t *testing.T, form uint8, before, after []byte) {
		if len(s.Scan(slices.Concat(before, []byte("\n"), after))) > 0 {
			t.Skip("the fuzzer found the value itself")
		}
		w := wraps[int(form)%len(wraps)]
		// White space parts it from what could be read as a part of its form.
		text := slices.Concat(before, []byte("\n \""), []byte(w.wrap(planted)), []byte("\" \n"), after)
		if got := s.Scan(text); len(got) != 1 || got[0].Value != 0 {
			t.Errorf("%s not found", w.name)
		}
	})
}

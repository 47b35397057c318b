package mask

import (
	"bytes"
	"io"
	"runtime"
	"strings"
	"testing"
)

// What an agent may write, it must not be able to make expensive: the work is
// bounded by the size, whatever the text. Without the bounds these take minutes.
func TestHostileTextsEnd(t *testing.T) {
	t.Parallel()
	s := scoped(t)
	var words []string
	for _, ks := range s.detect.words {
		for _, k := range ks {
			words = append(words, string(k.text))
		}
	}
	all := strings.Join(words, " = ") + "\n"
	const size = 1 << 20
	for name, text := range map[string]string{
		"every keyword":       strings.Repeat(all, size/len(all)),
		"schemes":             strings.Repeat("://a:", size/5),
		"signs":               strings.Repeat("a=b;password:x:", size/15),
		"names and values":    strings.Repeat("name: token value: tipstaff-masked-", size/35),
		"keys that begin":     strings.Repeat("-----BEGIN PRIVATE KEY-----\n", size/28),
		"quotes":              strings.Repeat(`password="`, size/10),
		"backslashes":         strings.Repeat(`\`, size/2) + strings.Repeat(`"=`, size/4),
		"spaces":              strings.Repeat(" ", size/2) + strings.Repeat("password ", size/18),
		"errors":              strings.Repeat(`Invalid value: "{`, size/17),
		"an error's brackets": "Invalid value: " + strings.Repeat("{", size),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, in := range []string{
				`{"kind":"ConfigMap","data":{"text":` + js(text) + `}}`,
				`{"kind":"Status","reason":"Invalid","message":` + js(text) + `}`,
			} {
				var out bytes.Buffer
				if err := s.JSON(&out, strings.NewReader(in)); err != nil {
					t.Error(err)
				}
			}
			log := s.Text(&bytes.Buffer{})
			if _, err := log.Write([]byte(text)); err != nil {
				t.Error(err)
			}
			if err := log.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A list of any length goes through in the memory of its largest item.
func TestMemoryIsThatOfTheLargestItem(t *testing.T) {
	s := scoped(t)
	const items = 200_000
	item := `{"metadata":{"name":"a","namespace":"b"},"data":{"k":"` + planted64 + `","pad":"` + strings.Repeat("eHg=", 100) + `"}}`
	src := &repeated{head: `{"kind":"SecretList","items":[`, item: item, left: items, tail: "]}"}
	var most uint64
	var n int64
	out := countingWriter(func(b []byte) {
		if n += int64(len(b)); n%(1<<20) < int64(len(b)) {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
		}
	})
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := s.JSON(out, src); err != nil {
		t.Fatal(err)
	}
	if n < items*100 {
		t.Fatalf("%d bytes came out", n)
	}
	if grown := int64(most) - int64(before.HeapInuse); grown > 32<<20 {
		t.Errorf("the heap grew by %d MB for %d MB", grown>>20, n>>20)
	}
}

type countingWriter func([]byte)

func (f countingWriter) Write(b []byte) (int, error) { f(b); return len(b), nil }

// repeated reads head, item so many times with commas between, and tail.
type repeated struct {
	head, item, tail string
	left             int
	rest             string
	begun            bool
}

func (r *repeated) Read(p []byte) (int, error) {
	for r.rest == "" {
		switch {
		case !r.begun:
			r.begun, r.rest = true, r.head
		case r.left > 1:
			r.left--
			r.rest = r.item + ","
		case r.left == 1:
			r.left--
			r.rest = r.item
		case r.tail != "":
			r.rest, r.tail = r.tail, ""
		default:
			return 0, io.EOF
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

package mask

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestClassesAreThoseOfJSON(t *testing.T) {
	for b := range 256 {
		src := []byte(strings.Repeat(string([]byte{byte(b)}), blockBytes))
		got := make([]classes, 1)
		classify(got, src)
		all := func(set string) uint64 {
			if strings.IndexByte(set, byte(b)) >= 0 {
				return ^uint64(0)
			}
			return 0
		}
		want := classes{quotes: all(`"`), slashes: all(`\`), opens: all("{["), closes: all("}]"), others: ^all("{[}] \t\r\n,:0123456789+-.eEtruefalsn")}
		if got[0] != want {
			t.Errorf("byte %#x: %x, want %x", b, got[0], want)
		}
	}
}

func TestBothClassifiersAgree(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		n := 1 + r.IntN(9)
		src := make([]byte, n*blockBytes)
		for i := range src {
			src[i] = byte(r.Uint32())
		}
		a, b := make([]classes, n), make([]classes, n)
		classify(a, src)
		classifyPortable(b, src)
		for i := range a {
			if a[i] != b[i] {
				t.Fatalf("block %d of %q: %x and %x", i, src, a[i], b[i])
			}
		}
	}
}

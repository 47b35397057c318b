package mask

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"
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
				s.known.add(randomValue(r, 12))
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
		s.known.add(v)
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

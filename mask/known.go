package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"sync/atomic"
)

const (
	// minValue is the length from which a known value is looked for in texts.
	minValue = 8
	// minStrength is what a value's bytes must at least be worth, in bits, to be
	// looked for in texts, and to have the same mark everywhere: whoever may write
	// a text could otherwise try guesses by it.
	minStrength = 42
	// maxKnownBytes bounds what is kept of known values; the oldest go first.
	maxKnownBytes = 32 << 20
	// maxValue is the longest value that is looked for as one.
	maxValue = 64 << 10
	// headBits is the size of the first look at the beginnings of values.
	headBits = 1 << 20
	// tailBytes is how much of a value tells that a text ends with its beginning.
	tailBytes = 4
)

// knownValues are the values of Secrets that were masked, to be found again in
// texts. They are kept in memory only.
type knownValues struct {
	mu    sync.RWMutex
	heads map[uint64][][]byte // values by their first eight bytes
	tails map[uint32][]uint64 // the keys of heads by their first four bytes, each list sorted
	order [][]byte            // oldest first
	bytes int
	count atomic.Int64
	look  [headBits / 64]atomic.Uint64 // a bit for the hash of each beginning
}

// head reads the first eight bytes in the order in which they sort.
func head(b []byte) uint64 { return binary.BigEndian.Uint64(b) }

func headBit(h uint64) (word int, bit uint64) {
	n := h * 0x9e3779b97f4a7c15 >> (64 - 20)
	return int(n / 64), 1 << (n % 64)
}

// strength is about what the bytes of v are worth, in bits: the entropy of
// their distribution (Shannon) by how many different places it has.
func strength(v []byte) float64 {
	n := len(v)
	if n > 32 {
		// What repeats itself is worth no more than once.
		var seen bitset
		n = 2
		for i := 0; i+3 <= len(v); i++ {
			if h := trigram(v[i:]); !seen.has(h) {
				seen.set(h)
				n++
			}
		}
	}
	return entropy(v) * float64(n)
}

// entropy is that of the distribution of v's bytes, in bits a byte.
func entropy(v []byte) float64 {
	var counts [256]int
	for _, b := range v {
		counts[b]++
	}
	bits := 0.0
	for _, c := range counts {
		if c > 0 {
			p := float64(c) / float64(len(v))
			bits -= p * math.Log2(p)
		}
	}
	return bits
}

// learn remembers a Secret's value: itself, its base64, and of a text of many
// lines each line that could be a secret by itself.
func (k *knownValues) learn(v []byte) {
	if len(v) < minValue || len(v) > 1<<20 || bytes.Contains(v, []byte("-----BEGIN CERTIFICATE")) {
		return // a certificate is public, and stands in many places
	}
	if k.has(v) {
		return
	}
	lines := bytes.Split(bytes.TrimSpace(v), []byte("\n"))
	if len(lines) == 1 {
		k.add(bytes.TrimSpace(v))
	} else {
		for _, l := range lines {
			if l = bytes.TrimSpace(l); len(l) >= 2*minValue && !bytes.HasPrefix(l, []byte("-----")) {
				k.add(l)
			}
		}
	}
	enc := make([]byte, base64.StdEncoding.EncodedLen(len(v)))
	base64.StdEncoding.Encode(enc, v)
	if len(lines) == 1 {
		enc = bytes.TrimRight(enc, "=")
		k.add(enc[:len(enc)/4*4]) // the last group may go on in a longer text
	}
	k.add(enc)
}

// has reports whether v was learnt as a whole.
func (k *knownValues) has(v []byte) bool {
	if len(v) < minValue || k.count.Load() == 0 {
		return false
	}
	h := head(v)
	if word, bit := headBit(h); k.look[word].Load()&bit == 0 {
		return false
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	for _, e := range k.heads[h] {
		if bytes.Equal(e, v) {
			return true
		}
	}
	return false
}

func (k *knownValues) add(v []byte) {
	if len(v) < minValue || len(v) > maxValue || strength(v) < minStrength || k.has(v) {
		return
	}
	v = bytes.Clone(v)
	h := head(v)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.heads == nil {
		k.heads, k.tails = map[uint64][][]byte{}, map[uint32][]uint64{}
	}
	if len(k.heads[h]) >= maxSameHead {
		return
	}
	if len(k.heads[h]) == 0 {
		t := uint32(h >> 32)
		at, _ := slices.BinarySearch(k.tails[t], h)
		k.tails[t] = slices.Insert(k.tails[t], at, h)
	}
	k.heads[h] = append(k.heads[h], v)
	k.order = append(k.order, v)
	word, bit := headBit(h)
	k.look[word].Or(bit)
	k.count.Add(1)
	for k.bytes += len(v); k.bytes > maxKnownBytes; {
		k.forget()
	}
}

// maxSameHead bounds how many values that begin alike are compared at a place.
const maxSameHead = 64

// forget drops the oldest value. Its bit stays: that costs a look, no more.
func (k *knownValues) forget() {
	old := k.order[0]
	k.order = k.order[1:]
	k.bytes -= len(old)
	k.count.Add(-1)
	h := head(old)
	rest := k.heads[h][:0]
	for _, e := range k.heads[h] {
		if &e[0] != &old[0] {
			rest = append(rest, e)
		}
	}
	if len(rest) > 0 {
		k.heads[h] = rest
		return
	}
	delete(k.heads, h)
	t := uint32(h >> 32)
	list := k.tails[t]
	if i, found := slices.BinarySearch(list, h); found {
		list = slices.Delete(list, i, i+1)
	}
	if len(list) > 0 {
		k.tails[t] = list
	} else {
		delete(k.tails, t)
	}
}

// find adds where known values stand in text, the longest at each place.
func (k *knownValues) find(text []byte, spans []span) []span {
	if len(text) < minValue || k.count.Load() == 0 {
		return spans
	}
	for i := 0; i+minValue <= len(text); i++ {
		h := head(text[i:])
		word, bit := headBit(h)
		if k.look[word].Load()&bit == 0 {
			continue
		}
		if n := k.longest(h, text[i:]); n > 0 {
			spans = append(spans, span{from: i, to: i + n})
			i += n - 1
		}
	}
	return spans
}

func (k *knownValues) longest(h uint64, text []byte) int {
	k.mu.RLock()
	defer k.mu.RUnlock()
	n := 0
	for _, e := range k.heads[h] {
		if len(e) > n && bytes.HasPrefix(text, e) {
			n = len(e)
		}
	}
	return n
}

// begins gives where in text a known value begins that may go on after its
// end, or the end. A beginning shorter than tailBytes is no sign of one.
func (k *knownValues) begins(text []byte) int {
	if k.count.Load() == 0 {
		return len(text)
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	for i := max(0, len(text)-maxHeld); i+minValue <= len(text); i++ {
		h := head(text[i:])
		if word, bit := headBit(h); k.look[word].Load()&bit == 0 {
			continue
		}
		for _, e := range k.heads[h] {
			if len(e) > len(text)-i && bytes.HasPrefix(e, text[i:]) {
				return i
			}
		}
	}
	for i := max(0, len(text)-minValue+1); i+tailBytes <= len(text); i++ {
		if k.headBegins(text[i:]) {
			return i
		}
	}
	return len(text)
}

// headBegins reports whether a value begins with tail, which is shorter than a
// head: the one that sorts next does, or none.
func (k *knownValues) headBegins(tail []byte) bool {
	var first [minValue]byte
	copy(first[:], tail)
	h := head(first[:])
	list := k.tails[uint32(h>>32)]
	at, _ := slices.BinarySearch(list, h)
	rest := 8 * (minValue - len(tail))
	return at < len(list) && list[at]>>rest == h>>rest
}

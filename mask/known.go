package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

const (
	// minValue is the length from which a known value is looked for in texts.
	minValue = 8
	// minStrength is what a value's bytes must at least be worth, in bits, to be
	// looked for in texts, and to have the same mark everywhere: whoever may write
	// a text could otherwise try guesses by it.
	minStrength = 42
	// maxValue is the longest value that is looked for as one, maxFound that of
	// one that was found elsewhere than in a Secret: comparing takes as long.
	maxValue = 64 << 10
	maxFound = 4 << 10
	// maxSecretBytes and maxFoundBytes bound what is kept of Secrets' values, and
	// of credentials that were found elsewhere, with what keeping them takes.
	maxSecretBytes = 32 << 20
	maxFoundBytes  = 8 << 20
	// maxValueBytes and maxObjectsValues bound what is learnt of one value (its
	// lines), and of one Secret's.
	maxValueBytes    = 256 << 10
	maxObjectsValues = 2 << 20
	// entryBytes is about what keeping a value takes beside its own bytes.
	entryBytes = 192
	// maxSameHead bounds how many values of a room that begin alike are kept.
	maxSameHead = 1024
	// headBits is the size of the first look at the beginnings of values.
	headBits = 1 << 20
	// tailBytes is how much of a value tells that a text ends with its beginning.
	tailBytes = 4
)

// knownValues are the values of Secrets that were masked, to be found again in
// texts, and the credentials that were found elsewhere. They are kept in memory
// only.
//
// Who may write what is masked decides what is learnt. So Secrets' values have
// room of their own, and in either room the run that has taken most of it gives
// way: none loses more than what is beyond its equal share.
type knownValues struct {
	mu    sync.RWMutex
	heads map[uint64][]*known // values by their first eight bytes, each list sorted
	tails map[uint32][]uint64 // the keys of heads by their first four bytes, each list sorted
	rooms [2]room
	count atomic.Int64
	added atomic.Uint64 // how many there ever were
	gone  atomic.Int64  // how many were forgotten
	stale int           // how many of those still have a bit in look
	look  atomic.Pointer[headLook]
}

// source says where a value was found.
type source byte

const (
	inSecret source = iota
	elsewhere
)

// known is one value.
type known struct {
	v       []byte
	in      *share
	shorter *known // the longest other one that v begins with, or nil
}

// room is what one source's values are kept in.
type room struct {
	most, bytes int
	shares      map[v1alpha1.RunKey]*share
}

// share is what one run has taken of a room.
type share struct {
	from  source
	run   v1alpha1.RunKey
	bytes int
	order []*known // oldest first; those that have moved on are in another share
}

// headLook has a bit for the hash of each beginning.
type headLook [headBits / 64]atomic.Uint64

// head reads the first eight bytes in the order in which they sort.
func head(b []byte) uint64 { return binary.BigEndian.Uint64(b) }

func headBit(h uint64) (word int, bit uint64) {
	n := h * 0x9e3779b97f4a7c15 >> (64 - 20)
	return int(n / 64), 1 << (n % 64)
}

func (l *headLook) has(h uint64) bool {
	word, bit := headBit(h)
	return l[word].Load()&bit != 0
}

func (l *headLook) set(h uint64) {
	word, bit := headBit(h)
	l[word].Or(bit)
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

// learn remembers a value for a run: itself, its base64, and of a text of many
// lines each line that could be a secret by itself.
func (k *knownValues) learn(v []byte, from source, run v1alpha1.RunKey) {
	if len(v) < minValue || len(v) > 1<<20 || bytes.Contains(v, []byte("-----BEGIN CERTIFICATE")) {
		return // a certificate is public, and stands in many places
	}
	if k.hasFrom(v, from) {
		return
	}
	text, lines := bytes.TrimSpace(v), 1
	if bytes.IndexByte(text, '\n') < 0 {
		k.add(text, from, run)
	} else {
		left := maxValueBytes
		for l := range bytes.Lines(text) {
			lines++
			if l = bytes.TrimSpace(l); len(l) < 2*minValue || bytes.HasPrefix(l, []byte("-----")) {
				continue
			}
			if left -= cost(l); left < 0 {
				break
			}
			k.add(l, from, run)
		}
	}
	if base64.StdEncoding.EncodedLen(len(v)) > maxValue {
		return
	}
	enc := base64.StdEncoding.AppendEncode(nil, v)
	if lines == 1 {
		enc = bytes.TrimRight(enc, "=")
		k.add(enc[:len(enc)/4*4], from, run) // the last group may go on in a longer text
	}
	k.add(enc, from, run)
}

// cost is what keeping v takes.
func cost(v []byte) int { return len(v) + entryBytes }

// has reports whether v was learnt as a whole.
func (k *knownValues) has(v []byte) bool { return k.hasFrom(v, elsewhere) }

// hasFrom reports whether v is kept where one from there would be, or better.
func (k *knownValues) hasFrom(v []byte, from source) bool {
	look := k.look.Load()
	if len(v) < minValue || look == nil || !look.has(head(v)) {
		return false
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	same := k.heads[head(v)]
	i, found := slices.BinarySearchFunc(same, v, compareKnown)
	return found && same[i].in.from <= from
}

func compareKnown(e *known, v []byte) int { return bytes.Compare(e.v, v) }

func (k *knownValues) add(v []byte, from source, run v1alpha1.RunKey) {
	if len(v) < minValue || len(v) > maxValue || from == elsewhere && len(v) > maxFound || strength(v) < minStrength || k.hasFrom(v, from) {
		return
	}
	h := head(v)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.heads == nil {
		k.heads, k.tails = map[uint64][]*known{}, map[uint32][]uint64{}
		k.rooms[inSecret], k.rooms[elsewhere] = newRoom(maxSecretBytes), newRoom(maxFoundBytes)
		k.look.Store(new(headLook))
	}
	same := k.heads[h]
	i, found := slices.BinarySearchFunc(same, v, compareKnown)
	if found && same[i].in.from <= from {
		return
	}
	alike := 0
	for _, e := range same {
		if e.in.from == from {
			alike++
		}
	}
	if alike >= maxSameHead {
		return
	}
	if found { // a Secret's, from now on
		k.rooms[same[i].in.from].take(same[i], -1)
		k.rooms[from].put(same[i], from, run)
	} else {
		e := &known{v: bytes.Clone(v), shorter: longest(same, v)}
		k.rooms[from].put(e, from, run)
		for _, l := range same[i:] {
			if !bytes.HasPrefix(l.v, v) {
				break
			}
			if l.shorter == e.shorter {
				l.shorter = e
			}
		}
		k.heads[h] = slices.Insert(same, i, e)
		if len(same) == 0 {
			t := uint32(h >> 32)
			at, _ := slices.BinarySearch(k.tails[t], h)
			k.tails[t] = slices.Insert(k.tails[t], at, h)
			k.look.Load().set(h)
		}
		k.count.Add(1)
		k.added.Add(1)
	}
	k.tidy(&k.rooms[from])
}

func newRoom(most int) room { return room{most: most, shares: map[v1alpha1.RunKey]*share{}} }

// put adds e as the newest of a run's share.
func (r *room) put(e *known, from source, run v1alpha1.RunKey) {
	s := r.shares[run]
	if s == nil {
		s = &share{from: from, run: run}
		r.shares[run] = s
	}
	e.in = s
	s.order = append(s.order, e)
	r.take(e, 1)
}

// take accounts for e: it is there once more (1), or less (-1).
func (r *room) take(e *known, sign int) {
	n := sign * cost(e.v)
	r.bytes += n
	if e.in.bytes += n; e.in.bytes == 0 {
		delete(r.shares, e.in.run)
	}
}

// tidy makes room: of the run that has most of it the oldest values go. A
// little more goes than must, since runs are many.
func (k *knownValues) tidy(r *room) {
	if r.bytes <= r.most {
		return
	}
	for target := r.most - r.most/64; r.bytes > target; {
		var most *share
		for _, s := range r.shares {
			if most == nil || s.bytes > most.bytes {
				most = s
			}
		}
		for low := most.bytes - r.most/64; r.bytes > target && most.bytes > max(low, 0); {
			e := most.order[0]
			most.order = most.order[1:]
			if e.in == most {
				k.forget(e, r)
			}
		}
	}
	if k.stale > headBits/4 {
		fresh := new(headLook)
		for h := range k.heads {
			fresh.set(h)
		}
		k.look.Store(fresh)
		k.stale = 0
	}
}

// forget drops e. Its bit stays for a while: that costs a look, no more.
func (k *knownValues) forget(e *known, r *room) {
	r.take(e, -1)
	k.count.Add(-1)
	k.gone.Add(1)
	k.stale++
	h := head(e.v)
	same := k.heads[h]
	if i, found := slices.BinarySearchFunc(same, e.v, compareKnown); found {
		same = slices.Delete(same, i, i+1)
		for _, l := range same[i:] {
			if l.shorter == e {
				l.shorter = e.shorter
			}
		}
	}
	if len(same) > 0 {
		k.heads[h] = same
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
	look := k.look.Load()
	for i := 0; i+minValue <= len(text); i++ {
		h := head(text[i:])
		if !look.has(h) {
			continue
		}
		k.mu.RLock()
		e := longest(k.heads[h], text[i:])
		k.mu.RUnlock()
		if e != nil {
			spans = append(spans, span{from: i, to: i + len(e.v)})
			i += len(e.v) - 1
		}
	}
	return spans
}

// longest gives the longest of same, sorted values, that text begins with, or
// nil. It and what sorts between it and text all begin with it.
func longest(same []*known, text []byte) *known {
	i, found := slices.BinarySearchFunc(same, text, compareKnown)
	if found {
		return same[i]
	}
	if i == 0 {
		return nil
	}
	e := same[i-1]
	for n := common(e.v, text); e != nil && len(e.v) > n; {
		e = e.shorter
	}
	return e
}

// common gives how many bytes a and b begin with that are the same.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
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
	look := k.look.Load()
	k.mu.RLock()
	defer k.mu.RUnlock()
	for i := max(0, len(text)-maxValue); i+minValue <= len(text); i++ {
		h := head(text[i:])
		if look.has(h) && k.goesOn(h, text[i:]) {
			return i
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

// goesOn reports whether a longer value begins with text.
func (k *knownValues) goesOn(h uint64, text []byte) bool {
	same := k.heads[h]
	i, found := slices.BinarySearchFunc(same, text, compareKnown)
	if found {
		i++
	}
	return i < len(same) && bytes.HasPrefix(same[i].v, text)
}

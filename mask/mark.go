package mask

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash/maphash"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

const (
	// MarkPrefix starts every mark.
	MarkPrefix = "tipstaff-masked-"
	// markLen is a multiple of three, so that a mark's base64 needs no padding.
	markLen = len(MarkPrefix) + 20
	// minKeyBytes is the output size of SHA-256 (RFC 2104 section 3).
	minKeyBytes = 32
)

// base64Prefix is how the base64 of every mark starts: the part of it that
// MarkPrefix alone determines.
var base64Prefix = aligned(0)

// shapes are what a mark shows of itself in a text: as it is, and in base64 at
// each of the three places where it can begin within a group.
var shapes = []string{MarkPrefix, base64Prefix, aligned(1), aligned(2)}

// aligned gives what MarkPrefix alone determines of its base64 when before
// bytes of something else stand in its first group. It holds neither + nor /,
// so the URL alphabet looks the same (a test keeps it so).
func aligned(before int) string {
	text := strings.Repeat("x", before) + MarkPrefix
	enc := base64.StdEncoding.EncodeToString([]byte(text[:len(text)/3*3]))
	if before > 0 {
		enc = enc[4:]
	}
	return enc
}

// Masker makes marks under one cluster's key.
type Masker struct {
	key    []byte
	rules  *rules
	detect *detectors
	known  knownValues
	recent recentMarks
	clean  *memo

	scopes     sync.Map // of *Scoped by v1alpha1.RunKey
	scopeCount atomic.Int64
}

// New gives a masker for a key of 32 bytes or more, that masks what is masked
// in every cluster.
func New(key []byte) (*Masker, error) { return (&Config{}).New(key) }

// New gives a masker for a key of 32 bytes or more. c must be valid.
func (c *Config) New(key []byte) (*Masker, error) {
	if len(key) < minKeyBytes {
		return nil, fmt.Errorf("mask key has %d bytes, %d or more are needed", len(key), minKeyBytes)
	}
	d, err := newDetectors()
	if err != nil {
		return nil, err
	}
	m := &Masker{key: bytes.Clone(key), rules: c.rules(), detect: d, clean: newMemo()}
	for i, f := range d.formats {
		if slices.Contains(c.DisabledFormats, f.rule.RuleID) {
			m.rules.disabled[i] = true
		}
	}
	m.recent.seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}
	return m, nil
}

// Scope gives the marks of one run: equal values have equal marks in it, and
// others in any other run.
func (m *Masker) Scope(run v1alpha1.RunKey) *Scoped {
	if s, ok := m.scopes.Load(run); ok {
		return s.(*Scoped) //nolint:forcetypeassert // nothing else is in it
	}
	if m.scopeCount.Add(1) > maxScopes {
		m.scopes.Clear()
		m.scopeCount.Store(1)
	}
	s := m.scope(run)
	m.scopes.Store(run, s)
	return s
}

// maxScopes bounds how many runs' keys are kept at hand.
const maxScopes = 4096

func (m *Masker) scope(run v1alpha1.RunKey) *Scoped {
	derive := func(what string) []byte {
		h := hmac.New(sha256.New, m.key)
		h.Write([]byte(run))
		h.Write([]byte(what))
		return h.Sum(nil)
	}
	return &Scoped{
		run: run, secretKey: derive(""), weakKey: derive("\x00weak"), otherKey: derive("\x00other"),
		rules: m.rules, detect: m.detect, known: &m.known, recent: &m.recent, clean: m.clean,
	}
}

// Scoped makes the marks of one run. It is safe for concurrent use.
//
// A mark shows which values are equal, and so whether a guess is right to
// whoever can have a guess masked. Therefore marks are of three kinds that never
// meet: of values that are too strong to be guessed; of weaker ones in Secrets;
// and of weaker credentials found elsewhere, where agents may write without a
// signature. Weaker ones are equal within one object only, and in what is none,
// such as a log, within that.
type Scoped struct {
	run                          v1alpha1.RunKey
	secretKey, weakKey, otherKey []byte

	rules  *rules
	detect *detectors
	known  *knownValues
	recent *recentMarks
	clean  *memo
	// tried says that the answers are of dry runs.
	tried bool
	// opens is how much of helm's releases is unpacked in an answer, to be masked
	// within: none where they are masked as one value.
	opens int
}

// Unlinked gives the marks of an answer to something that was tried only (a dry
// run): those of weak values are like no others. Who manages which field is left
// out: a dry run with the right guess of a value leaves it with its owner.
func (s *Scoped) Unlinked() *Scoped {
	fresh := *s
	fresh.weakKey, fresh.otherKey = make([]byte, sha256.Size), make([]byte, sha256.Size)
	_, _ = rand.Read(fresh.weakKey) // never fails
	_, _ = rand.Read(fresh.otherKey)
	fresh.tried = true
	return &fresh
}

// String gives the mark that v has as a Secret's value, of no Secret in
// particular. A mark stays what it is, so masking twice is masking once. The
// empty string has nothing to hide and stays empty.
func (s *Scoped) String(v string) string {
	if v == "" || isMark(v) {
		return v
	}
	return string(s.appendValue(nil, []byte(v), nil))
}

// appendValue appends the mark of a value of a Secret that is at place.
func (s *Scoped) appendValue(dst, v []byte, at placed) []byte {
	if strength(v) < minStrength {
		var place []byte
		if at != nil {
			place = at.place()
		}
		return sign(dst, s.weakKey, place, v)
	}
	return sign(dst, s.secretKey, nil, v)
}

// placed is what can say what it is: two that aren't the same never say the
// same, and what agents write has no say in it but by its own name.
type placed interface{ place() []byte }

// stray is something that nothing names, such as a log: it is like no other.
type stray struct{ id []byte }

func (s *stray) place() []byte {
	if s.id == nil {
		s.id = make([]byte, 16)
		_, _ = rand.Read(s.id) // never fails
	}
	return s.id
}

// owner is whose value is masked.
type owner struct {
	of     placed
	secret bool // a Secret's values are looked for elsewhere
	own    bool // the same of other objects that are credentials, or have values that an admin has named
	public bool // the value's name says that it is no secret by itself, such as a namespace
	room   int  // what may still be learnt of a Secret
}

// learns reports whether a value of n bytes is to be known from now on.
func (o *owner) learns(n int) bool {
	if o.public || !o.secret && !o.own {
		return false
	}
	o.room -= min(3*(n+entryBytes), maxValueBytes) // itself, and twice in base64
	return o.room >= 0
}

func (o *owner) source() source {
	if o.secret {
		return inSecret
	}
	return elsewhere
}

// appendSecret appends the mark of a value of a Secret, which may be known from
// then on.
func (s *Scoped) appendSecret(dst, v []byte, of *owner) []byte {
	return s.appendLearnt(dst, v, of, of.learns(len(v)))
}

func (s *Scoped) appendLearnt(dst, v []byte, of *owner, learn bool) []byte {
	if len(v) == 0 || len(v) == markLen && isMark(string(v)) {
		return append(dst, v...)
	}
	if learn {
		s.known.learn(v, of.source(), s.run)
	}
	return s.appendValue(dst, v, of.of)
}

// appendOther appends the mark of a credential that was found elsewhere. One
// that can't be guessed is known from then on too: under another name it is the
// same.
func (s *Scoped) appendOther(dst, v []byte, of *owner) []byte {
	if len(v) == 0 || len(v) == markLen && isMark(string(v)) {
		return append(dst, v...)
	}
	if strength(v) < minStrength {
		return sign(dst, s.otherKey, of.of.place(), v)
	}
	s.known.learn(v, elsewhere, s.run)
	return sign(dst, s.secretKey, nil, v)
}

// mayMean reports whether mark is one that v may have in a text of what is at
// place.
func (s *Scoped) mayMean(mark, v string, place []byte) bool {
	if strength([]byte(v)) >= minStrength {
		return string(sign(nil, s.secretKey, nil, []byte(v))) == mark
	}
	return string(sign(nil, s.otherKey, place, []byte(v))) == mark || string(sign(nil, s.weakKey, place, []byte(v))) == mark
}

// appendSecret64 appends the base64 of the mark of what v is the base64 of.
func (s *Scoped) appendSecret64(dst, v []byte, of *owner) []byte {
	learn := of.learns(base64.StdEncoding.DecodedLen(len(v)))
	hash := s.recent.hash(s.weakKey, of.of.place(), v, learn)
	gone := s.known.gone.Load()
	if m := s.recent.find(hash); m != nil && (!m.learnt || m.gone == gone || s.known.has(v)) {
		return append(dst, m.mark[:]...)
	}
	plain := make([]byte, base64.StdEncoding.DecodedLen(len(v)))
	n, err := base64.StdEncoding.Decode(plain, v)
	if err != nil {
		plain, n = v, len(v)
	}
	mark := s.appendLearnt(make([]byte, 0, markLen), plain[:n], of, learn)
	begin := len(dst)
	dst = base64.StdEncoding.AppendEncode(dst, mark)
	if len(mark) == markLen {
		s.recent.keep(hash, dst[begin:], learn && s.known.has(v), gone)
	}
	return dst
}

// recentMarks are the marks of values that were masked lately, by the hash of
// run, Secret and value: lists of Secrets are read again and again.
type recentMarks struct {
	seeds [2]maphash.Seed // two hashes of 64 bits, which nobody outside can foresee
	slots [1 << recentBits]atomic.Pointer[recentMark]
}

const recentBits = 14

type recentMark struct {
	hash   [2]uint64
	mark   [markLen / 3 * 4]byte
	learnt bool  // the value was known then
	gone   int64 // when so many had been forgotten
}

func (r *recentMarks) hash(key, place, v []byte, learn bool) (hash [2]uint64) {
	for i := range hash {
		var h maphash.Hash
		h.SetSeed(r.seeds[i])
		_, _ = h.Write(key) // never fails
		_, _ = h.Write(place)
		if learn {
			_ = h.WriteByte(1)
		} else {
			_ = h.WriteByte(0)
		}
		_, _ = h.Write(v)
		hash[i] = h.Sum64()
	}
	return hash
}

// find gives the mark with this hash, which is in either of two slots, or nil.
func (r *recentMarks) find(hash [2]uint64) *recentMark {
	for _, h := range hash {
		if m := r.slots[h>>(64-recentBits)].Load(); m != nil && m.hash == hash {
			return m
		}
	}
	return nil
}

func (r *recentMarks) keep(hash [2]uint64, mark64 []byte, learnt bool, gone int64) {
	m := &recentMark{hash: hash, learnt: learnt, gone: gone}
	copy(m.mark[:], mark64)
	first, second := &r.slots[hash[0]>>(64-recentBits)], &r.slots[hash[1]>>(64-recentBits)]
	if first.CompareAndSwap(nil, m) || second.CompareAndSwap(nil, m) {
		return
	}
	if hash[0]&1 == 0 {
		first.Store(m)
	} else {
		second.Store(m)
	}
}

func sign(dst, key, place, v []byte) []byte {
	h := hmac.New(sha256.New, key)
	if place != nil {
		h.Write(place)
		h.Write([]byte{0})
	}
	h.Write(v)
	var sum [sha256.Size]byte
	return hex.AppendEncode(append(dst, MarkPrefix...), h.Sum(sum[:0])[:10])
}

func isMark(v string) bool {
	if len(v) != markLen || !strings.HasPrefix(v, MarkPrefix) {
		return false
	}
	_, err := hex.DecodeString(v[len(MarkPrefix):])
	return err == nil
}

// HasMark reports whether a mark, or the base64 of something that holds one,
// stands anywhere in v.
func HasMark(v string) bool {
	for _, shape := range shapes {
		if strings.Contains(v, shape) {
			return true
		}
	}
	// Base64 may be broken into lines (RFC 4648 section 3.1; Go's decoder skips them).
	if strings.ContainsAny(v, "\r\n") {
		return HasMark(strings.NewReplacer("\r", "", "\n", "").Replace(v))
	}
	return false
}

// InText reports whether a mark, or the base64 of something that holds one,
// stands in a text in one piece: one that an escape or a line break parts is not
// seen, as [HasMark] sees it in the string that the text stands for.
func InText(text []byte) bool {
	for i, shape := range shapes {
		if bytes.Contains(text, tails[i]) && bytes.Contains(text, []byte(shape)) {
			return true
		}
	}
	return false
}

// tails are the shapes from a byte on that is rare in Kubernetes objects: texts
// without marks are searched for these several times faster.
var tails = func() [][]byte {
	all := make([][]byte, len(shapes))
	for i, shape := range shapes {
		all[i] = []byte(shape[max(0, strings.IndexAny(shape, "kXZ")):])
	}
	return all
}()

// ContainsMark finds the first mark in a decoded JSON value, names and releases
// of helm's included, and gives its path, such as data.password or
// items[2].data.token. Of what holds more compressed than can be looked at, the
// first that was not is taken for a mark.
func ContainsMark(v any) (path string, found bool) {
	left := maxReleasesBytes
	return containsMark(v, &left)
}

func containsMark(v any, left *int) (path string, found bool) {
	switch v := v.(type) {
	case string:
		return "", HasMark(v) || packs(v, left)
	case []any:
		for i, e := range v {
			if p, ok := containsMark(e, left); ok {
				return join(fmt.Sprintf("[%d]", i), p), true
			}
		}
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			if HasMark(k) {
				return k, true
			}
			if p, ok := containsMark(v[k], left); ok {
				return join(k, p), true
			}
		}
	}
	return "", false
}

func join(a, b string) string {
	if b == "" || b[0] == '[' {
		return a + b
	}
	return a + "." + b
}

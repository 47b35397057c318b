package authn

import (
	"crypto/sha256"
	"time"

	"k8s.io/apimachinery/pkg/util/cache"
)

// maxCached bounds how many verified tokens are remembered. An entry takes
// about 2 KiB, so all of them about 32 MiB; the one not used for longest goes
// first.
const maxCached = 16 << 10

// tokenKey stands for a token where the token itself must not: in memory longer
// than its request.
type tokenKey [sha256.Size]byte

func keyOfToken(token string) tokenKey { return sha256.Sum256([]byte(token)) }

// tokens remembers verified tokens until they end or their issuer's keys change.
// Only that the token holds is remembered: whether its run is revoked and what
// it may do is asked every time.
type tokens struct {
	lru *cache.LRUExpireCache
}

func newTokens(size int) *tokens { return &tokens{lru: cache.NewLRUExpireCache(size)} }

func (c *tokens) find(k tokenKey) *verified {
	e, ok := c.lru.Get(k)
	if !ok {
		return nil
	}
	v, ok := e.(*verified)
	// A key that was withdrawn verifies nothing any more. The pointer changes with
	// every set of keys, and it is the one that the token was verified with.
	if !ok || v.keys != v.by.keys.Load() || !v.by.now().Before(v.until) {
		c.lru.Remove(k)
		return nil
	}
	return v
}

func (c *tokens) remember(k tokenKey, v *verified) {
	if ttl := v.until.Sub(v.by.now()); ttl > 0 {
		c.lru.Add(k, v, min(ttl, 365*24*time.Hour))
	}
}

package authn

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// revocationStore is what the watch has seen. It is the reflector's store.
type revocationStore struct {
	now     func() time.Time
	changed func() // called after each change, without the lock

	mu     sync.RWMutex
	synced bool
	heard  time.Time // when the API server last answered
	byName map[string]*v1alpha1.Revocation
	index  revocationIndex
}

func (s *revocationStore) hasSynced() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.synced
}

func (s *revocationStore) heardNow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = s.now()
}

// silence is how long the API server hasn't been heard; zero if never.
func (s *revocationStore) silence() time.Duration {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.heard.IsZero() {
		return 0
	}
	return s.now().Sub(s.heard)
}

func (s *revocationStore) stale() bool { return s.silence() > maxSilence }

func (s *revocationStore) inForce() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	n, now := 0, s.now()
	for _, rev := range s.byName {
		if !rev.Ended(now) {
			n++
		}
	}
	return n
}

func (s *revocationStore) revoked(a v1alpha1.Agent) (string, bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.synced {
		return "", false, ErrNotSynced
	}
	now := s.now()
	if rev := s.index.find(a, now); rev != nil {
		return rev.Spec.Reason, true, nil
	}
	if now.Sub(s.heard) > maxSilence {
		return "", false, ErrStale
	}
	return "", false, nil
}

// Add puts one in.
func (s *revocationStore) Add(obj any) error {
	rev, err := asRevocation(obj)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.put(rev)
	s.mu.Unlock()
	s.changed()
	return nil
}

// Update replaces one.
func (s *revocationStore) Update(obj any) error { return s.Add(obj) }

// Delete takes one out.
func (s *revocationStore) Delete(obj any) error {
	rev, err := asRevocation(obj)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.remove(rev.Name)
	s.mu.Unlock()
	s.changed()
	return nil
}

// Replace takes a whole list: from the first on, the revocations are known.
func (s *revocationStore) Replace(objs []any, _ string) error {
	revs := make([]*v1alpha1.Revocation, 0, len(objs))
	for _, obj := range objs {
		rev, err := asRevocation(obj)
		if err != nil {
			return err
		}
		revs = append(revs, rev)
	}
	s.mu.Lock()
	s.byName, s.index = nil, revocationIndex{}
	for _, rev := range revs {
		s.put(rev)
	}
	s.synced = true
	s.mu.Unlock()
	s.changed()
	return nil
}

// Resync has nothing to do.
func (s *revocationStore) Resync() error { return nil }

func (s *revocationStore) put(rev *v1alpha1.Revocation) {
	s.remove(rev.Name)
	if s.byName == nil {
		s.byName = map[string]*v1alpha1.Revocation{}
	}
	s.byName[rev.Name] = rev
	s.index.add(rev)
}

func (s *revocationStore) remove(name string) {
	if rev := s.byName[name]; rev != nil {
		delete(s.byName, name)
		s.index.remove(rev)
	}
}

func asRevocation(obj any) (*v1alpha1.Revocation, error) {
	rev, ok := obj.(*v1alpha1.Revocation)
	if !ok {
		return nil, fmt.Errorf("the revocation watch gave a %T", obj)
	}
	return rev, nil
}

// selectors are the fields by which a revocation names somebody; empty ones
// don't count.
type selectors struct{ run, issuer, subject, agent, owner, credentialID string }

// shape says which fields of selectors are set.
type shape uint8

func (s selectors) shape() shape {
	var sh shape
	for i, v := range [...]string{s.run, s.issuer, s.subject, s.agent, s.owner, s.credentialID} {
		if v != "" {
			sh |= 1 << i
		}
	}
	return sh
}

// only is s with the fields that sh names.
func (s selectors) only(sh shape) selectors {
	var out selectors
	if sh&1 != 0 {
		out.run = s.run
	}
	if sh&2 != 0 {
		out.issuer = s.issuer
	}
	if sh&4 != 0 {
		out.subject = s.subject
	}
	if sh&8 != 0 {
		out.agent = s.agent
	}
	if sh&16 != 0 {
		out.owner = s.owner
	}
	if sh&32 != 0 {
		out.credentialID = s.credentialID
	}
	return out
}

// named are the selectors that name an agent in full.
func named(a v1alpha1.Agent) selectors {
	return selectors{a.Run, a.Issuer, subjectOf(a), a.User, a.Owner, a.CredentialID}
}

// subjectOf is a.Subject without memory of its own.
func subjectOf(a v1alpha1.Agent) string {
	s, ok := strings.CutPrefix(a.User, v1alpha1.UserPrefix)
	if ok {
		if s, ok = strings.CutPrefix(s, a.Issuer); ok {
			if s, ok = strings.CutPrefix(s, ":"); ok {
				return s
			}
		}
	}
	return a.User
}

// revocationIndex finds who is revoked by one look-up for each set of selectors
// that is in use, at most 63 and rarely more than three: no choice of selectors
// makes a list that must be searched.
type revocationIndex struct {
	shapes []shape
	counts map[shape]int
	by     map[selectors][]*v1alpha1.Revocation // each in the order of names
}

func selectorsOf(rev *v1alpha1.Revocation) selectors {
	sp := &rev.Spec
	return selectors{sp.Run, sp.Issuer, sp.Subject, sp.Agent, sp.Owner, sp.CredentialID}
}

// find gives the first by name that revokes a at now; nil if none does.
func (x *revocationIndex) find(a v1alpha1.Agent, now time.Time) *v1alpha1.Revocation {
	if len(x.shapes) == 0 {
		return nil
	}
	full := named(a)
	var found *v1alpha1.Revocation
	for _, sh := range x.shapes {
		for _, rev := range x.by[full.only(sh)] {
			if rev.Ended(now) {
				continue
			}
			if found == nil || rev.Name < found.Name {
				found = rev
			}
			break
		}
	}
	return found
}

func byRevocationName(rev *v1alpha1.Revocation, name string) int {
	return strings.Compare(rev.Name, name)
}

func (x *revocationIndex) add(rev *v1alpha1.Revocation) {
	sel := selectorsOf(rev)
	sh := sel.shape()
	if sh == 0 {
		return // it names nobody: the API server stores no such one
	}
	if x.by == nil {
		x.counts, x.by = map[shape]int{}, map[selectors][]*v1alpha1.Revocation{}
	}
	revs := x.by[sel]
	i, _ := slices.BinarySearchFunc(revs, rev.Name, byRevocationName)
	x.by[sel] = slices.Insert(revs, i, rev)
	if x.counts[sh]++; x.counts[sh] == 1 {
		x.shapes = append(x.shapes, sh)
	}
}

func (x *revocationIndex) remove(rev *v1alpha1.Revocation) {
	sel := selectorsOf(rev)
	revs := x.by[sel]
	i, ok := slices.BinarySearchFunc(revs, rev.Name, byRevocationName)
	if !ok {
		return
	}
	if revs = slices.Delete(revs, i, i+1); len(revs) == 0 {
		delete(x.by, sel)
	} else {
		x.by[sel] = revs
	}
	sh := sel.shape()
	if x.counts[sh]--; x.counts[sh] == 0 {
		delete(x.counts, sh)
		x.shapes = slices.DeleteFunc(x.shapes, func(s shape) bool { return s == sh })
	}
}

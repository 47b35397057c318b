package bindings

import (
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// entry is one binding as it stands in the API server. It never changes, but
// for its proof.
type entry struct {
	key
	object  *rbacv1.RoleBinding
	expires time.Time       // zero when the annotation is missing or unreadable
	agent   *v1alpha1.Agent // nil likewise
	// proof is true once the authorizer is known to apply it. Versions that
	// give the same to the same share one.
	proof *atomic.Bool
}

// maxAnnotationBytes bounds what is parsed of a binding. An agent's names stay
// under 4 KiB together.
const maxAnnotationBytes = 16 << 10

// newEntry takes o over.
func newEntry(o *rbacv1.RoleBinding) *entry {
	// The larger half of an object, and left out of an update it stays as it is
	// (apimachinery v0.37, util/managedfields/internal/fieldmanager.go, Update).
	o.ManagedFields = nil
	e := &entry{key: key{o.Namespace, o.Name}, object: o, proof: new(atomic.Bool)}
	if t, err := time.Parse(time.RFC3339, o.Annotations[v1alpha1.AnnotationExpiresAt]); err == nil {
		e.expires = t
	}
	if text := o.Annotations[v1alpha1.AnnotationAgent]; text != "" && len(text) <= maxAnnotationBytes {
		var a v1alpha1.Agent
		if json.Unmarshal([]byte(text), &a) == nil && a.CredentialID == "" {
			e.agent = &a
		}
	}
	return e
}

// run and grant are the owner that e claims by its labels; empty when it claims none.
func (e *entry) run() string   { return e.object.Labels[v1alpha1.LabelRunKey] }
func (e *entry) grant() string { return e.object.Labels[v1alpha1.LabelGrant] }

// ours reports whether e claims to be a run's or a grant's binding of ours.
func (e *entry) ours() bool {
	return e.object.Labels[v1alpha1.LabelManagedBy] == v1alpha1.ManagedBy && (e.run() != "" || e.grant() != "")
}

// gives reports whether e and o give the same to the same.
func (e *entry) gives(o *entry) bool {
	a, b := e.object, o.object
	if a.UID != b.UID || a.RoleRef != b.RoleRef || len(a.Subjects) != len(b.Subjects) {
		return false
	}
	for i := range a.Subjects {
		if a.Subjects[i] != b.Subjects[i] {
			return false
		}
	}
	return true
}

// newer reports whether e is a later version than o. Versions of all bindings
// come from one counter, so objects of the same name compare too.
func (e *entry) newer(o *entry) bool {
	return compare(e.object.ResourceVersion, o.object.ResourceVersion) > 0
}

// compare orders resource versions; what can't be compared counts as equal.
func compare(a, b string) int {
	n, err := resourceversion.CompareResourceVersion(a, b)
	if err != nil {
		return 0
	}
	return n
}

// view is what is known of the bindings: what two watches have seen, and what
// this process wrote since, so that it reads its own writes. Of two versions the
// later one stands, whichever way it came.
type view struct {
	// changed is called with what changed, under the view's lock.
	changed func(*entry)

	mu      sync.RWMutex
	synced  [2]bool // namespaced, cluster-wide
	byKey   map[key]*entry
	byOwner map[string]map[key]*entry // by run key or grant uid
	// gone are those that this process removed and whose watch event is to come.
	gone map[types.UID]key
	// left are the last objects that left the watch, and at which version: the
	// answer to a write of ours may arrive after the event of their end.
	left    map[types.UID]string
	leaving [maxLeft]types.UID
	next    int
}

// maxLeft is how many that left are remembered: answers arrive within
// milliseconds of the events, and this many removals take longer.
const maxLeft = 1024

func newView(changed func(*entry)) *view {
	return &view{
		changed: changed, byKey: map[key]*entry{}, byOwner: map[string]map[key]*entry{},
		gone: map[types.UID]key{}, left: map[types.UID]string{},
	}
}

func (v *view) hasSynced() bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.synced[0] && v.synced[1]
}

func (v *view) get(k key) *entry {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.byKey[k]
}

// of are the bindings of one run or grant.
func (v *view) of(owner string) []*entry {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := make([]*entry, 0, len(v.byOwner[owner]))
	for _, e := range v.byOwner[owner] {
		out = append(out, e)
	}
	return out
}

func (v *view) all() []*entry {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := make([]*entry, 0, len(v.byKey))
	for _, e := range v.byKey {
		out = append(out, e)
	}
	return out
}

// count says how many bindings of runs and of grants there are.
func (v *view) count() (runs, grants int) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, e := range v.byKey {
		switch {
		case e.grant() != "":
			grants++
		case e.run() != "":
			runs++
		}
	}
	return runs, grants
}

// put takes a version in, unless a later one is known, and gives what stands.
func (v *view) put(o *rbacv1.RoleBinding) *entry {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.set(newEntry(o))
}

func (v *view) set(e *entry) *entry {
	if _, gone := v.gone[e.object.UID]; gone {
		return nil
	}
	// A removal is a version of its own, later than all of the object's. One
	// that only lost its label left at the version that it still has.
	if at, left := v.left[e.object.UID]; left && compare(e.object.ResourceVersion, at) < 0 {
		return nil
	}
	if have := v.byKey[e.key]; have != nil {
		if have.newer(e) {
			return have
		}
		if have.gives(e) {
			e.proof = have.proof
		}
		v.drop(have)
	}
	v.byKey[e.key] = e
	for _, owner := range []string{e.run(), e.grant()} {
		if owner == "" {
			continue
		}
		if v.byOwner[owner] == nil {
			v.byOwner[owner] = map[key]*entry{}
		}
		v.byOwner[owner][e.key] = e
	}
	v.changed(e)
	return e
}

func (v *view) drop(e *entry) {
	delete(v.byKey, e.key)
	for _, owner := range []string{e.run(), e.grant()} {
		delete(v.byOwner[owner], e.key)
		if len(v.byOwner[owner]) == 0 {
			delete(v.byOwner, owner)
		}
	}
}

// removed takes out what this process removed, or was told is not there.
func (v *view) removed(k key, uid types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	// When it isn't there any more, the watch's event came before this call.
	if have := v.byKey[k]; have != nil && have.object.UID == uid {
		v.drop(have)
		v.gone[uid] = k
		v.changed(have)
	}
}

// feed is one watch's way into the view.
type feed struct {
	view *view
	wide bool // ClusterRoleBindings
}

func (f feed) index() int {
	if f.wide {
		return 1
	}
	return 0
}

// Add takes one in.
func (f feed) Add(obj any) error {
	o, err := asBinding(obj)
	if err != nil {
		return err
	}
	f.view.put(o)
	return nil
}

// Update replaces one.
func (f feed) Update(obj any) error { return f.Add(obj) }

// Delete takes one out: the object is gone, or its label is.
func (f feed) Delete(obj any) error {
	o, err := asBinding(obj)
	if err != nil {
		return err
	}
	v := f.view
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.gone, o.UID)
	if _, known := v.left[o.UID]; !known {
		delete(v.left, v.leaving[v.next])
		v.leaving[v.next] = o.UID
		v.next = (v.next + 1) % maxLeft
	}
	v.left[o.UID] = o.ResourceVersion
	have := v.byKey[key{o.Namespace, o.Name}]
	// One that came back under the name, or whose label we put back, is later.
	if have != nil && have.object.UID == o.UID && compare(have.object.ResourceVersion, o.ResourceVersion) <= 0 {
		v.drop(have)
		v.changed(have)
	}
	return nil
}

// Replace takes a whole list as of version.
func (f feed) Replace(objs []any, version string) error {
	listed := make(map[key]*entry, len(objs))
	uids := make(map[types.UID]bool, len(objs))
	for _, obj := range objs {
		o, err := asBinding(obj)
		if err != nil {
			return err
		}
		e := newEntry(o)
		listed[e.key], uids[o.UID] = e, true
	}
	v := f.view
	v.mu.Lock()
	defer v.mu.Unlock()
	for k, have := range v.byKey {
		if (k.namespace == "") == f.wide && listed[k] == nil && compare(have.object.ResourceVersion, version) <= 0 {
			v.drop(have)
			v.changed(have)
		}
	}
	for uid, k := range v.gone {
		if (k.namespace == "") == f.wide && !uids[uid] {
			delete(v.gone, uid)
		}
	}
	for _, e := range listed {
		v.set(e)
	}
	v.synced[f.index()] = true
	return nil
}

// Resync has nothing to do.
func (feed) Resync() error { return nil }

func asBinding(obj any) (*rbacv1.RoleBinding, error) {
	switch o := obj.(type) {
	case *rbacv1.RoleBinding:
		return o, nil
	case *rbacv1.ClusterRoleBinding:
		b := rbacv1.RoleBinding(*o)
		return &b, nil
	}
	return nil, fmt.Errorf("the watch of bindings gave a %T", obj)
}

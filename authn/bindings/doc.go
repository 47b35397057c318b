// Package bindings puts in force what a run may do, and takes it back: the
// RoleBindings and ClusterRoleBindings of runs (their profile's) and of Grants.
//
// What it promises. When [Controller.Ensure] returns nil, the run is bound to
// every role of its access in every namespace that is there, and the API
// server's authorizer applies it: the very first request is authorised. That is
// proved, not assumed. Each binding names, beside the run's group, one group
// that is its own and nobody's (v1alpha1.GroupBindingPrefix); a
// SubjectAccessReview for that group alone is allowed only once this very
// binding is in force. With several API servers behind one address the proof is
// of the one that answered; the others learn by their own watches, moments apart.
//
// A binding goes when its time is over, when its agent is revoked (at once), and
// when the configuration doesn't allow it any more. What a crash left is found
// at start, since everything that must be known of a binding stands in it:
// whose it is and until when. Any number of replicas may run: names are the same
// everywhere, creation races converge, and a removal names the version that it
// judged, so that a binding extended a moment ago survives.
//
// A run's bindings tell the agent of the token that made them. A revocation that
// fits that agent ends them; one of a single token (credentialID) refuses that
// token and leaves the run's bindings to its others. A grant for a run goes with
// the run, also when the run is revoked by its owner or subject, as far as its
// bindings told them.
//
// What it refuses (I1). It binds no subject but the group of a run, the group of
// a proxied run or agent, an agent's user, and the group that proves the
// binding; no role and no place outside [access.Limits]. Whoever may write
// RoleBindings anyway needs no Tipstaff; here only this counts: an object under
// one of our names is put right or replaced where it carries our labels, and is
// an error where it doesn't and names another role. One that carries our labels
// but doesn't say, readably, whose it is and until when is removed: nothing else
// would ever end it. Objects that carry only app.kubernetes.io/managed-by are
// not looked at.
//
// How it fails. Ensure returns an error, and the token is refused, when the
// bindings aren't known yet, the run is revoked, the access isn't allowed, or
// the API server doesn't answer, refuses, or doesn't apply the binding in time.
// A namespace that is missing or ending is no failure: its binding is left out,
// logged, and tried again by the next Ensure. A role that is missing or empty
// gives nothing, so there is nothing to prove.
package bindings

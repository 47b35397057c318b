// Package bindings tests authn/bindings on a real control plane: etcd,
// kube-apiserver with its RBAC authorizer, and the controllers that end
// namespaces and collect what is orphaned. Tipstaff itself doesn't run: the
// tests run its controller, one or more of it, so that they can stop it.
package bindings

// Package v1alpha1 holds Tipstaff's Kubernetes API types (Approval, Revocation)
// and the identity that an agent's request carries through the API server.
//
// Everything here is a contract between the roles and with users: a name that
// appears in a group, an extra key, a label or an audit annotation is read by
// RBAC rules, SQL and scripts that we don't see.
//
// +kubebuilder:object:generate=true
// +groupName=tipstaff.dev
package v1alpha1

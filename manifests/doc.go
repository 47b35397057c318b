// Package manifests holds what is installed into a cluster and its API server:
// the CRDs, RBAC and webhook configuration (a kustomize base), the default risk
// rules, and the API server's flag files. The files are what `kubectl apply -k`
// uses; the functions fill in addresses and certificates for servers that are
// not in the cluster.
//
// It decides nothing, and fails only where a caller's values can't be rendered.
package manifests

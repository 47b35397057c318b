// Package manifests holds what is installed into a cluster and its API server:
// the CRDs, RBAC and webhook configuration (a kustomize base), the default risk
// rules, and the API server's flag files. The files are what `kubectl apply -k`
// uses; the functions fill in addresses and certificates for servers that are
// not in the cluster, and what follows from a configuration: who counts as an
// agent, and what Tipstaff may bind. For a configuration that says nothing of
// either they give the files.
//
// It decides nothing, and fails only where a caller's values can't be rendered.
package manifests

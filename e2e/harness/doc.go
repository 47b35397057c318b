// Package harness runs Tipstaff on a real control plane on this machine: etcd,
// kube-apiserver, kube-controller-manager, an OIDC provider and `tipstaff serve`
// with its embedded JetStream and ClickHouse engine. The end-to-end tests, the
// demo and `make dev` stand on it alike.
//
// Promise: real processes and real TLS (one CA a run, every certificate
// verified) on free loopback ports in a folder of its own, so several can run
// at once. [Start] returns when every part answers that it is ready; it waits
// by readiness, never by time. [Cluster.Stop] ends the parts in order and
// removes the folder; a part also dies with this process, however that ends
// (Linux: parent-death signal), and a folder left by a killed run is removed by
// the next one.
//
// Refuses: to run with a missing tool, or in a folder where another one runs.
//
// Fails with one line that says what to do where it can tell (tool missing,
// port in use, disk full), else with the end of the log of the part that
// failed.
package harness

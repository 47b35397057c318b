// Package pods holds the tests that need pods that run: logs, exec, attach, cp
// and port-forward, directly and through the proxy, on a real kubelet with a real
// container runtime. They need root; TIPSTAFF_NO_NODE=1 leaves them out.
package pods

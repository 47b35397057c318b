// Package e2e holds the end-to-end tests: the product's invariants on a real
// control plane, each test named after the one it holds (TestI3_…).
//
// They share one harness.Cluster. Tests that stop or kill tipstaff run alone;
// the others run in parallel, each with a run and namespaces of its own. A
// missing part fails them; nothing is skipped.
package e2e

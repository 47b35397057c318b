// Package layout holds the test that keeps the packages' imports running one
// way: cmd and e2e to the roles, roles to mask, schema, manifests and api,
// those to internal. It has no code of its own.
package layout

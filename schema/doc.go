// Package schema holds the stored records: the audit events' tables in
// ClickHouse, the migrations that make them, the questions asked of them, and
// how the answers read in a terminal.
//
// It promises that an event that is written again changes no answer: a row's
// identity is its cluster, audit id, stage and times, and every query here
// reads through that (FINAL). Migrations are numbered, go forward only and can
// be run twice. Check refuses a schema that is older or newer than this
// version, in words that say what to do.
//
// It masks nothing: what reaches it has been masked by ingest.
package schema

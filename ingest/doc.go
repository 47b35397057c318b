// Package ingest receives the API server's audit events, makes them durable
// and writes them to ClickHouse.
//
// It promises (I6) that an event whose batch was answered 200 gets to
// ClickHouse, whatever is killed in between, and that no query sees it twice:
// 200 is said after JetStream has synced the batch to disk, a message is
// acknowledged after its rows are inserted, and a row that is inserted again
// replaces itself. And it promises (I7) that nothing is stored before it is
// masked: only masked events leave the handler.
//
// It refuses a cluster that isn't configured (the cluster is the path's, never
// the body's), a body that is too large, and one that is no EventList. An event
// in a good list that can't be understood doesn't take the others with it: it
// goes to the quarantine stream, with its reason and with every text in it
// replaced by a mark. A body of an event that can't be understood is left out
// of the event, which stays.
//
// When JetStream can't store, the answer is 503 at once and the API server
// tries again; its retry is the same batch and is stored once. When ClickHouse
// is away, the stream holds what came until it is back or the stream is full.
package ingest

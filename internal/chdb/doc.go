// Package chdb serves an embedded ClickHouse (libchdb) behind ClickHouse's own
// HTTP interface on loopback, so that clickhouse-go, curl and BI tools use it
// as they use a ClickHouse server.
//
// The engine runs in a child process (the same binary, see [MaybeRunEngine]):
// a crash in C++ costs the requests in flight, which get a 5xx or a cut answer,
// and nothing else. The listener stays up and the child comes back by itself.
// What was acknowledged before a crash is there after it. The child dies with
// its parent, and where the kernel has Landlock it can reach no file but its
// own data directory and the system's libraries, so SQL such as file() cannot
// read the host.
//
// Refused: listening anywhere but on loopback, sessions, external tables,
// INTO OUTFILE and FROM INFILE, several statements in one request, and a second
// process on the same data directory.
//
// Answers in row formats (TabSeparated, CSV, JSONEachRow, RowBinary, Native …)
// are streamed; those with a head and a foot (JSON, Parquet, Pretty …) go
// through a file in the data directory first. An error after the first byte cuts the answer,
// framed as ClickHouse frames it.
package chdb

// Package httpserve runs one HTTPS server of a role: certificates and client
// CAs are reloaded when their files change, callers are bounded in what they
// may send and how slowly, and a stop drains what is in flight.
//
// Where a client CA is set, a caller without a certificate of that CA gets no
// TLS session; where names are set as well, a caller whose certificate bears
// another common name gets 403. A handler that panics answers 500 and the
// server goes on.
package httpserve

// Package issuer is an agent platform's OIDC provider for tests, the demo and
// `make dev`: the certified provider github.com/zitadel/oidc as a library, with
// its state in memory, served over HTTPS.
//
// Promise: tokens come out of the real token endpoint by the client-credentials
// grant (RFC 6749 section 4.4), as signed JWTs, with a real discovery document
// and key set behind them. One registered client stands for one run of one
// agent and fixes that run's claims; [Client.Mint] registers it and gets its token.
//
// Refuses: registering a client without the admin secret; every grant but
// client credentials. It fails closed: what it can't do is an OAuth error.
//
// It is no part of the product and keeps nothing: a restart is a new key.
package issuer

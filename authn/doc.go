// Package authn turns an agent's OIDC token into an identity of one run.
//
// It verifies tokens of any number of configured issuers with go-oidc, maps
// their claims to a [v1alpha1.Agent] with CEL, checks every name that comes out,
// and asks for revocations on every call. What the run's profile gives it is
// bound before the answer ([Bindings]). That a token holds is remembered by its
// hash until it ends or its issuer's keys change. [Explain] says step by step how
// a token fares, by the same checks. The API server reaches it as a
// TokenReview webhook ([Authenticator.Handler]); the proxy calls
// [Authenticator.Authenticate].
//
// The promise (I1): no token yields a system: name, a name outside Tipstaff's
// own prefixes, or more than its mapping says. Every group is computed here from
// checked parts; a claim never becomes a group by itself. A revoked run is
// refused (I9), and so is every run as long as the revocations aren't known.
//
// It refuses to accept HMAC or unsigned tokens, tokens without exp and iat,
// tokens with duplicate claims, names that aren't plain ASCII, and RSA keys below
// 2048 bits. It takes keys from the issuer alone (or the file that stands for
// it), never from a token's header.
//
// How it fails: closed, for agents only. A token of an issuer that isn't
// configured is [ErrNotOurs] and left to the API server's other authenticators;
// one of ours that doesn't hold is a [*RefusedError], whose text says which
// check failed and never what the token held. An issuer that can't be reached at
// start is tried again in the background, and its tokens are refused until it
// answers; once known, its keys keep verifying while it is down.
package authn

// Package webhook judges each change that an agent makes: allow it, deny it, or
// hold it until people have signed exactly this request.
//
// A request is judged by rules (CEL); deny beats hold beats allow. A held one
// gets an approval bound to its fingerprint: identity, run, operation, object,
// options and content. The handler waits briefly for a decision, then answers
// 429 with a retry time, which client-go (kubectl, helm, operators) honours by
// itself; the same request after the approval goes through, once (I3).
//
// It judges agents only. Anyone else is allowed untouched: the webhook
// configuration keeps their traffic away, this is the second lock (I5).
//
// It fails closed (I4): a malformed review, an object that can't be read, a rule
// that can't be evaluated, a store that can't answer, a deadline, a panic: each
// refuses, says that the change could not be checked, and is logged. What an
// agent reads states facts and is never a recipe for passing the gate; no
// value that the masking rules name is in any answer, approval or log (I7).
package webhook

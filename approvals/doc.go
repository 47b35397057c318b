// Package approvals is an approval's life: opened once for one exact request,
// decided by people, used once, cancelled when its agent is revoked, expired,
// removed.
//
// The state is a pure function of what stands in the object and of the time
// (State), and so is the right to change it (rights.go): both
// hold with tipstaff down, restarted, or running twice.
//
// Promises: whatever an agent is allowed by RBAC, it decides nothing (I2); an
// approval is used by one conditional update, so exactly one of any number of
// identical requests goes through (I3); none of a revoked agent does, and what
// was cancelled stays so when the revocation is lifted (I9). What decides is
// read live from the API server, never from a cache; the watch only wakes
// waiters and drives the phase that people see.
//
// It refuses to say where an approval stands when the API server can't be
// reached: every error goes up, and the caller refuses its request.
package approvals

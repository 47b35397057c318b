// Package conformance checks what an agent can read: it plants random
// credentials in every place of a cluster where credentials lie, reads them back
// as the agent by every format and path that a Kubernetes client may use, and
// looks for them in every byte of the answers, in whatever form they stand there.
//
// It promises that a check is called ok only if the answer was seen to hold the
// planted object (or to be the error that would quote it) and none of its values.
// What could not be read is skipped, with its reason, and never ok. It also
// checks that what was read can be written back unchanged without harm.
//
// It starts nothing in the cluster, and changes nothing outside the namespace
// that it makes but what it made itself; all of that is removed at the end, also
// when it fails or its context ends. Changes that an agent's rules hold are
// asked for once and count as skipped.
package conformance

//go:build race

package proxy

// raceEnabled says that the race detector runs.
const raceEnabled = true

package httpserve

import (
	"os"
	"runtime/debug"
)

// gcPercent lets the heap grow to four times what lives on it.
const gcPercent = 300

// RelaxGC has the process collect garbage less often than Go's default, unless
// $GOGC says how often. Little lives on Tipstaff's heap (tens of megabytes) and
// each request leaves much behind: at Go's default the collector takes a tenth
// of a token review's CPU and most of its slowest percent's time (bench).
func RelaxGC() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}

//go:build !amd64

package mask

// classify classifies as many blocks of src as dst takes.
func classify(dst []classes, src []byte) { classifyPortable(dst, src) }

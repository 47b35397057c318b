package mask

import "golang.org/x/sys/cpu"

//go:noescape
func classifyAVX2(dst *classes, src *byte, blocks int)

var hasAVX2 = cpu.X86.HasAVX2

// classify classifies as many blocks of src as dst takes.
func classify(dst []classes, src []byte) {
	if len(dst) == 0 {
		return
	}
	if !hasAVX2 {
		classifyPortable(dst, src)
		return
	}
	_ = src[len(dst)*blockBytes-1] // the assembly checks nothing
	classifyAVX2(&dst[0], &src[0], len(dst))
}

package mask

// blockBytes is what one word of the index covers.
const blockBytes = 64

// classes say of 64 bytes which are what, a bit each, the first the lowest.
type classes struct {
	quotes, slashes, opens, closes uint64
	others                         uint64 // what may not stand outside of a string, quotes and slashes included
}

// A byte is of the classes that its low and its high half have in common.
const (
	classOpens  = 0x40
	classCloses = 0x80
	// The rest: white space, comma, colon, and what numbers, true, false and null
	// are made of.
)

var (
	lowHalf  = [16]byte{0x03, 0x06, 0x0a, 0x0a, 0x0a, 0x1e, 0x06, 0x02, 0x02, 0x22, 0x22, 0x41, 0x05, 0xa1, 0x05, 0x00}
	highHalf = [16]byte{0x20, 0x00, 0x01, 0x02, 0x10, 0xc0, 0x04, 0xc8}
)

func classifyPortable(dst []classes, src []byte) {
	for i := range dst {
		var c classes
		for j, b := range src[i*blockBytes : (i+1)*blockBytes] {
			bit := uint64(1) << j
			class := lowHalf[b&15] & highHalf[b>>4]
			switch {
			case class&classOpens != 0:
				c.opens |= bit
			case class&classCloses != 0:
				c.closes |= bit
			case class == 0:
				c.others |= bit
			}
			switch b {
			case '"':
				c.quotes |= bit
			case '\\':
				c.slashes |= bit
			}
		}
		dst[i] = c
	}
}

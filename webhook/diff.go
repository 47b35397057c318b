package webhook

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/aymanbagabas/go-udiff"
	"go.yaml.in/yaml/v3"
)

// maxDiffBytes keeps an approval well below what etcd stores (1.5 MiB) and
// below the CRD's cap of 262,144 characters.
const maxDiffBytes = 192 << 10

// contextLines is more than diff's usual 3: in YAML the parents of a changed
// field stand above it.
const contextLines = 8

// diff renders the change from oldObj to newObj as a unified diff of YAML. Both
// are normalised and masked already. Where the diff is cut, its last line says
// so with the whole size and hash; wholeBytes is always the whole size.
func diff(oldObj, newObj map[string]any) (text string, wholeBytes int64, err error) {
	before, err := toYAML(oldObj)
	if err != nil {
		return "", 0, fmt.Errorf("render the old object: %w", err)
	}
	after, err := toYAML(newObj)
	if err != nil {
		return "", 0, fmt.Errorf("render the new object: %w", err)
	}
	whole, err := udiff.ToUnified("before", "after", before, udiff.Lines(before, after), contextLines)
	if err != nil {
		return "", 0, fmt.Errorf("render the difference: %w", err)
	}
	whole = visible(whole)
	return cut(whole), int64(len(whole)), nil
}

func toYAML(obj map[string]any) (string, error) {
	if obj == nil {
		return "", nil
	}
	// Not by way of JSON, as sigs.k8s.io/yaml does: reading that as YAML refuses
	// characters that a string may hold.
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	e.CompactSeqIndent()
	if err := e.Encode(obj); err != nil {
		return "", err
	}
	return b.String(), e.Close()
}

// cut shortens s to maxDiffBytes at a line's end, or at a character's where one line is longer.
func cut(s string) string {
	if len(s) <= maxDiffBytes {
		return s
	}
	note := fmt.Sprintf("\n... cut here: the whole difference has %d bytes, sha256 %x\n", len(s), sha256.Sum256([]byte(s)))
	keep := s[:maxDiffBytes-len(note)]
	if i := strings.LastIndexByte(keep, '\n'); i > 0 {
		keep = keep[:i]
	}
	return strings.ToValidUTF8(keep, "") + note // the last character may be cut in two
}

// visible writes control and format characters (direction overrides, zero
// width) as escapes: what an approver reads must be what is there.
func visible(s string) string {
	hidden := func(r rune) bool {
		return r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029')
	}
	if utf8.ValidString(s) && !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for _, r := range s { // an invalid byte becomes U+FFFD
		if hidden(r) {
			fmt.Fprintf(&b, "\\u%04x", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

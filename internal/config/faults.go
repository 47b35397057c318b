package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing wrong with a file.
type Fault struct {
	// Line is where, counted from 1; 0 when it concerns the file as a whole.
	Line int
	// Field is the path of what is wrong, such as authn.issuers[0].url.
	Field string
	// Message says what is wrong and what to do.
	Message string
}

// Faults is everything wrong with one file. As an error it prints one line a
// fault: file:line: field: message.
type Faults struct {
	File string
	List []Fault
}

func (f *Faults) Error() string {
	lines := make([]string, 0, len(f.List))
	for _, ft := range f.List {
		at := f.File
		if ft.Line > 0 {
			at = fmt.Sprintf("%s:%d", f.File, ft.Line)
		}
		if ft.Field != "" {
			at += ": " + ft.Field
		}
		lines = append(lines, at+": "+ft.Message)
	}
	return strings.Join(lines, "\n")
}

func (f *Faults) add(line int, field, format string, args ...any) {
	f.List = append(f.List, Fault{Line: line, Field: field, Message: fmt.Sprintf(format, args...)})
}

// covers reports whether a fault stands at path or above it already: what is
// said of a value that could not be read would only repeat that.
func (f *Faults) covers(path string) bool {
	return slices.ContainsFunc(f.List, func(ft Fault) bool {
		rest, ok := strings.CutPrefix(path, ft.Field)
		return ok && ft.Field != "" && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

func (f *Faults) sort() {
	slices.SortStableFunc(f.List, func(a, b Fault) int { return cmp.Compare(a.Line, b.Line) })
}

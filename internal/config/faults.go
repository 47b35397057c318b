package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing wrong with a file.
type Fault struct {
	// File is where; empty when it is the file of Faults itself, and not one that
	// it includes.
	File string
	// Line is where, counted from 1; 0 when it concerns the file as a whole.
	Line int
	// Field is the path of what is wrong, such as authn.issuers[0].url.
	Field string
	// Message says what is wrong and what to do.
	Message string

	path string // of Field in the whole: an included file's stands below what names it
}

// Faults is everything wrong with one file. As an error it prints one line a
// fault: file:line: field: message. Those of the file itself come first.
type Faults struct {
	File string
	List []Fault
}

func (f *Faults) Error() string {
	lines := make([]string, 0, len(f.List))
	for _, ft := range f.List {
		at := cmp.Or(ft.File, f.File)
		if ft.Line > 0 {
			at = fmt.Sprintf("%s:%d", at, ft.Line)
		}
		if ft.Field != "" {
			at += ": " + ft.Field
		}
		lines = append(lines, at+": "+ft.Message)
	}
	return strings.Join(lines, "\n")
}

// addIn adds a fault at path, which stands in a place.
func (f *Faults) addIn(in place, path, format string, args ...any) {
	shown := path
	if in.below != "" {
		shown = strings.TrimPrefix(strings.TrimPrefix(path, in.below), ".")
	}
	f.List = append(f.List, Fault{File: in.file, Line: in.line, Field: shown, Message: fmt.Sprintf(format, args...), path: path})
}

// place is a line of a file.
type place struct {
	file  string // empty for the file of Faults
	below string // the path of what includes the file
	line  int
}

// covers reports whether a fault stands at path or above it already: what is
// said of a value that could not be read would only repeat that.
func (f *Faults) covers(path string) bool {
	return slices.ContainsFunc(f.List, func(ft Fault) bool {
		rest, ok := strings.CutPrefix(path, ft.path)
		return ok && ft.path != "" && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

func (f *Faults) sort() {
	slices.SortStableFunc(f.List, func(a, b Fault) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line)) })
}

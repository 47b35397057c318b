package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxFileBytes is far above any config that a person keeps, and what a
// ConfigMap can hold.
const maxFileBytes = 1 << 20

// Section is a struct that a file is read into. Validate reports everything
// wrong with it, at paths below at; it changes and opens nothing that lasts.
type Section interface {
	Validate(at *field.Path) field.ErrorList
}

// Includer is a Section that names files with more of it. Includes is asked once
// the Section is read, before Validate.
type Includer interface {
	Includes() []Include
}

// Include is a file that a Section names. It is as strictly read as the Section.
type Include struct {
	// At is the field that names it. What is wrong in the file is told by Validate
	// at paths below At, as if it stood there.
	At *field.Path
	// File is its path, from the folder of the file that names it.
	File string
	// Into is a pointer to a struct with json tags.
	Into any
}

// maxIncludes bounds the files that one names.
const maxIncludes = 100

// Load reads the file into out. The error is a *Faults when the file was read
// but doesn't hold.
func Load(file string, out Section) error {
	data, err := read(file)
	if err != nil {
		return fmt.Errorf("read config: %w", err)
	}
	return Decode(file, data, out)
}

// read reads one byte more than a file may have, so that the excess shows.
func read(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read-only, nothing to lose
	return io.ReadAll(io.LimitReader(f, maxFileBytes+1))
}

// Decode reads one YAML document into out, a pointer to a struct with json
// tags. The error is a *Faults that names everything wrong; out is then not
// to be used.
func Decode(file string, data []byte, out Section) error {
	faults := &Faults{File: file}
	w := walker{faults: faults, lines: map[string]place{}}
	if !w.document(data, reflect.ValueOf(out).Elem(), nil) {
		return faults
	}
	if in, ok := out.(Includer); ok {
		files := in.Includes()
		if len(files) > maxIncludes {
			w.fault(0, "", "names more than %d files", maxIncludes)
			return faults
		}
		w.include(filepath.Dir(file), files)
	}
	for _, e := range out.Validate(nil) {
		if path := e.Field; !faults.covers(path) {
			// field.Error prints "path: message"; the path stands apart here.
			faults.addIn(w.line(path), path, "%s", e.ErrorBody())
		}
	}
	if len(faults.List) > 0 {
		faults.sort()
		return faults
	}
	return nil
}

// document reads the one document in data into v. False means that it is none.
func (w *walker) document(data []byte, v reflect.Value, at *field.Path) bool {
	fault := func(line int, format string, args ...any) bool {
		w.fault(line, text(at), format, args...)
		return false
	}
	if len(data) > maxFileBytes {
		return fault(0, "is larger than %d bytes", maxFileBytes)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return fault(0, "is empty")
		}
		line := lineOf(err)
		return fault(line, "%s", strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), fmt.Sprintf("line %d: ", line)))
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fault(0, "must hold one YAML document")
	}
	w.value(doc.Content[0], v, at)
	return true
}

// include reads the files that another one names. A fault of one stands at its own
// file and line, one that concerns no line of it at the field that names it.
func (w *walker) include(dir string, files []Include) {
	for _, f := range files {
		name := f.File
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		data, err := read(name)
		if err != nil {
			w.faults.addIn(w.line(text(f.At)), text(f.At), "can't be read: %s", err)
			continue
		}
		inner := walker{faults: w.faults, lines: w.lines, file: name, below: text(f.At)}
		inner.document(data, reflect.ValueOf(f.Into).Elem(), f.At)
	}
}

// lineOf reads the line out of a syntax error, which yaml gives only as text.
func lineOf(err error) int {
	var line int
	if _, scanErr := fmt.Sscanf(err.Error(), "yaml: line %d:", &line); scanErr != nil {
		return 0
	}
	return line
}

// walker sets Go values from YAML nodes, and remembers where each stood.
type walker struct {
	faults *Faults
	lines  map[string]place // by field path
	// file and below are those of an included file.
	file, below string
}

func (w *walker) fault(line int, path, format string, args ...any) {
	w.faults.addIn(place{w.file, w.below, line}, path, format, args...)
}

// line is where path stands, or the nearest thing above it that is written.
func (w *walker) line(path string) place {
	for {
		if l, ok := w.lines[path]; ok {
			return l
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return w.lines[""]
		}
		path = path[:i]
	}
}

func text(at *field.Path) string {
	if at == nil {
		return ""
	}
	return at.String()
}

func (w *walker) value(n *yaml.Node, v reflect.Value, at *field.Path) {
	if _, ok := w.lines[text(at)]; !ok {
		w.lines[text(at)] = place{w.file, w.below, n.Line}
	}
	fault := func(format string, args ...any) { w.fault(n.Line, text(at), format, args...) }
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		fault("YAML anchors and aliases aren't taken: write the value out")
		return
	}
	if n.Tag == "!!null" {
		return // as if it weren't there
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	if u, ok := v.Addr().Interface().(json.Unmarshaler); ok {
		w.unmarshal(n, u, fault)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		w.object(n, v, at, fault)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			fault("must be a list")
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, item := range n.Content {
			w.value(item, v.Index(i), at.Index(i))
		}
	case reflect.Map:
		w.strings(n, v, at, fault)
	case reflect.String:
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
			fault("must be a string (put it in quotes)")
			return
		}
		v.SetString(n.Value)
	case reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.Decode(v.Addr().Interface()) != nil {
			fault("must be true or false")
		}
	case reflect.Int, reflect.Int32, reflect.Int64:
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || n.Decode(v.Addr().Interface()) != nil {
			fault("must be a whole number")
		}
	default:
		// A bug of ours: a section uses a type that this walker doesn't know.
		fault("can't be read: no rule for Go type %s", v.Type())
	}
}

// strings sets a map of strings by names that the file chooses.
func (w *walker) strings(n *yaml.Node, v reflect.Value, at *field.Path, fault func(string, ...any)) {
	if n.Kind != yaml.MappingNode {
		fault("must be an object")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		child := at.Key(key.Value)
		name := reflect.ValueOf(key.Value)
		if v.MapIndex(name).IsValid() {
			w.fault(key.Line, text(child), "given twice")
			continue
		}
		w.lines[text(child)] = place{w.file, w.below, key.Line}
		item := reflect.New(v.Type().Elem()).Elem()
		w.value(val, item, child)
		v.SetMapIndex(name, item)
	}
}

// unmarshal sets a type that reads itself from a JSON string, such as a duration.
func (w *walker) unmarshal(n *yaml.Node, u json.Unmarshaler, fault func(string, ...any)) {
	quoted, err := json.Marshal(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		fault("must be a single value")
		return
	}
	if err := u.UnmarshalJSON(quoted); err != nil {
		fault("%s", strings.TrimPrefix(err.Error(), "time: "))
	}
}

func (w *walker) object(n *yaml.Node, v reflect.Value, at *field.Path, fault func(string, ...any)) {
	if n.Kind != yaml.MappingNode {
		fault("must be an object")
		return
	}
	known := fieldsOf(v)
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		child := at.Child(key.Value)
		fv, ok := known[key.Value]
		switch {
		case !ok:
			w.fault(key.Line, text(child), "unknown field")
		case seen[key.Value]:
			w.fault(key.Line, text(child), "given twice")
		default:
			seen[key.Value] = true
			w.lines[text(child)] = place{w.file, w.below, key.Line}
			w.value(val, fv, child)
		}
	}
}

// fieldsOf are a struct's fields by their json names, embedded structs joined in.
func fieldsOf(v reflect.Value) map[string]reflect.Value {
	fields := map[string]reflect.Value{}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			for k, fv := range fieldsOf(v.Field(i)) {
				fields[k] = fv
			}
		case name != "" && name != "-":
			fields[name] = v.Field(i)
		}
	}
	return fields
}

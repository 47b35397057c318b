package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
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

// Load reads the file into out. The error is a *Faults when the file was read
// but doesn't hold.
func Load(file string, out Section) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read config: %w", err)
	}
	defer func() { _ = f.Close() }() // read-only, nothing to lose
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return fmt.Errorf("read config: %w", err)
	}
	return Decode(file, data, out)
}

// Decode reads one YAML document into out, a pointer to a struct with json
// tags. The error is a *Faults that names everything wrong; out is then not
// to be used.
func Decode(file string, data []byte, out Section) error {
	faults := &Faults{File: file}
	if len(data) > maxFileBytes {
		faults.add(0, "", "is larger than %d bytes", maxFileBytes)
		return faults
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			faults.add(0, "", "is empty")
		} else {
			line := lineOf(err)
			faults.add(line, "", "%s", strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), fmt.Sprintf("line %d: ", line)))
		}
		return faults
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		faults.add(0, "", "must hold one YAML document")
		return faults
	}
	w := walker{faults: faults, lines: map[string]int{}}
	w.value(doc.Content[0], reflect.ValueOf(out).Elem(), nil)
	for _, e := range out.Validate(nil) {
		if path := e.Field; !faults.covers(path) {
			// field.Error prints "path: message"; the path stands apart here.
			faults.add(w.line(path), path, "%s", e.ErrorBody())
		}
	}
	if len(faults.List) > 0 {
		faults.sort()
		return faults
	}
	return nil
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
	lines  map[string]int // by field path
}

// line is where path stands, or the nearest thing above it that the file has.
func (w *walker) line(path string) int {
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
		w.lines[text(at)] = n.Line
	}
	fault := func(format string, args ...any) { w.faults.add(n.Line, text(at), format, args...) }
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
			w.faults.add(key.Line, text(child), "given twice")
			continue
		}
		w.lines[text(child)] = key.Line
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
			w.faults.add(key.Line, text(child), "unknown field")
		case seen[key.Value]:
			w.faults.add(key.Line, text(child), "given twice")
		default:
			seen[key.Value] = true
			w.lines[text(child)] = key.Line
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

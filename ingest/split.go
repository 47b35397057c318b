package ingest

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	eventListKind    = "EventList"
	auditAPIVersion  = "audit.k8s.io/v1"
	maxEventsInBatch = 20_000 // the API server's default is 400
)

// ParseError says why a body is no batch. Its text quotes nothing of the body.
type ParseError struct {
	// Offset is where in the body it was noticed, in bytes.
	Offset int64
	// Reason is what was wrong.
	Reason string
}

// Error gives the reason and the place.
func (e *ParseError) Error() string { return fmt.Sprintf("%s at byte %d", e.Reason, e.Offset) }

// splitOptions let through what the API server may pass on of a client's body:
// names given twice and text that isn't UTF-8. Bodies are read strictly later,
// each alone, so that a bad one costs only itself.
var splitOptions = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

// split cuts an EventList into its events as they stand in body. Every error
// is a *ParseError.
func split(body []byte) ([]jsontext.Value, error) {
	dec := jsontext.NewDecoder(bytes.NewReader(body), splitOptions...)
	bad := func(reason string) ([]jsontext.Value, error) {
		return nil, &ParseError{Offset: dec.InputOffset(), Reason: reason}
	}
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '{' {
		return bad("the body is no JSON object")
	}
	var kind, apiVersion string
	events := []jsontext.Value{}
	for dec.PeekKind() != '}' {
		name, err := dec.ReadToken()
		if err != nil {
			return bad("the JSON is broken")
		}
		switch name.String() {
		case "kind":
			err = readString(dec, &kind)
		case "apiVersion":
			err = readString(dec, &apiVersion)
		case "items":
			if events, err = readItems(dec, body, events); errors.Is(err, errTooMany) {
				return bad("there are too many events")
			}
		default:
			err = dec.SkipValue()
		}
		if err != nil {
			return bad("the JSON is broken")
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return bad("the JSON is broken")
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return bad("something follows the list")
	}
	if kind != eventListKind || apiVersion != auditAPIVersion {
		return bad("the body is no audit.k8s.io/v1 EventList")
	}
	return events, nil
}

var (
	errTooMany  = errors.New("too many")
	errNoString = errors.New("no string")
)

func readString(dec *jsontext.Decoder, s *string) error {
	tok, err := dec.ReadToken()
	if err != nil {
		return err
	}
	if tok.Kind() != '"' {
		return errNoString
	}
	*s = tok.String()
	return nil
}

// readItems appends the array's values, as slices of body.
func readItems(dec *jsontext.Decoder, body []byte, events []jsontext.Value) ([]jsontext.Value, error) {
	if dec.PeekKind() == 'n' {
		return events, dec.SkipValue()
	}
	if tok, err := dec.ReadToken(); err != nil {
		return nil, err
	} else if tok.Kind() != '[' {
		return nil, errNoString
	}
	for dec.PeekKind() != ']' {
		v, err := dec.ReadValue()
		if err != nil {
			return nil, err
		}
		if len(events) == maxEventsInBatch {
			return nil, errTooMany
		}
		end := dec.InputOffset()
		events = append(events, jsontext.Value(body[end-int64(len(v)):end:end]))
	}
	_, err := dec.ReadToken()
	return events, err
}

// join is the inverse of split.
func join(events []jsontext.Value) []byte {
	var b bytes.Buffer
	b.WriteString(`{"kind":"` + eventListKind + `","apiVersion":"` + auditAPIVersion + `","metadata":{},"items":[`)
	for i, ev := range events {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(ev)
	}
	b.WriteString("]}\n")
	return b.Bytes()
}

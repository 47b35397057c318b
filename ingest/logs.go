package ingest

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// maxWraps bounds how often what is wrapped may wrap something.
const maxWraps = 3

var (
	errNotJSON  = errors.New("it is no JSON, or breaks off")
	errNoEvents = errors.New("it is no audit event, nor a cloud's record of one")
)

// entry is what a line of a log may be: an event, a list of them, or the record
// of one that a cloud's log service keeps.
type entry struct {
	Kind       string           `json:"kind"`
	APIVersion string           `json:"apiVersion"`
	AuditID    string           `json:"auditID"`
	Items      []jsontext.Value `json:"items"`

	// Amazon CloudWatch Logs: a subscription's message, or an event of
	// filter-log-events.
	LogEvents []struct {
		Message string `json:"message"`
	} `json:"logEvents"`
	Message jsontext.Value `json:"message"`

	// Azure Monitor's resource logs: a message of an Event Hub, or a line of a
	// storage account's blob.
	Records    []jsontext.Value `json:"records"`
	Category   string           `json:"category"`
	Properties jsontext.Value   `json:"properties"`

	// Google Cloud Logging's LogEntry.
	ProtoPayload jsontext.Value `json:"protoPayload"`
}

// eventsOfLine gives the audit events that a line of a log holds. A record of
// something else, which clouds keep in the same place, holds none. An error says
// that some of the line couldn't be read; it quotes nothing.
func eventsOfLine(line []byte) ([]jsontext.Value, error) { return unwrap(line, 0) }

func unwrap(text []byte, depth int) ([]jsontext.Value, error) {
	text = bytes.TrimSpace(text)
	if depth > maxWraps {
		return nil, errNoEvents
	}
	// CloudWatch's exports to S3 have a time before each message.
	if len(text) > 0 && text[0] != '{' && text[0] != '[' {
		stamp, rest, _ := bytes.Cut(text, []byte(" "))
		if _, err := time.Parse(time.RFC3339, string(stamp)); err != nil {
			return nil, errNotJSON
		}
		text = bytes.TrimSpace(rest)
		if len(text) > 0 && text[0] != '{' {
			return nil, nil // the log of something else
		}
	}
	if len(text) == 0 {
		return nil, errNotJSON
	}
	if text[0] == '[' {
		var list []jsontext.Value
		if err := json.Unmarshal(text, &list, splitOptions...); err != nil {
			return nil, errNotJSON
		}
		return unwrapAll(list, depth)
	}
	var e entry
	if err := json.Unmarshal(text, &e, splitOptions...); errors.As(err, new(*json.SemanticError)) {
		return nil, errNoEvents
	} else if err != nil {
		return nil, errNotJSON
	}
	switch {
	case e.Kind == "Event" && strings.HasPrefix(e.APIVersion, "audit.k8s.io/"), e.Kind == "" && e.AuditID != "":
		return []jsontext.Value{text}, nil
	case e.Kind == eventListKind:
		return e.Items, nil
	case len(e.LogEvents) > 0:
		list := make([]jsontext.Value, len(e.LogEvents))
		for i, le := range e.LogEvents {
			list[i] = jsontext.Value(le.Message)
		}
		return unwrapMessages(list, depth)
	case len(e.Records) > 0:
		return unwrapAll(e.Records, depth)
	case len(e.ProtoPayload) > 0:
		return fromGoogle(text)
	case len(e.Properties) > 0:
		return fromAzure(&e, depth)
	case e.Message.Kind() == '"':
		message, err := unquoted(e.Message)
		if err != nil {
			return nil, err
		}
		return unwrapMessages([]jsontext.Value{jsontext.Value(message)}, depth)
	}
	return nil, errNoEvents
}

func unwrapAll(list []jsontext.Value, depth int) (all []jsontext.Value, err error) {
	for _, v := range list {
		events, one := unwrap(v, depth+1)
		if one != nil {
			err = one
			continue
		}
		all = append(all, events...)
	}
	return all, err
}

// unwrapMessages is unwrapAll for what one log group has of every part of the
// control plane: most are no events.
func unwrapMessages(list []jsontext.Value, depth int) (all []jsontext.Value, err error) {
	var maybe []jsontext.Value
	for _, v := range list {
		if v = bytes.TrimSpace(v); len(v) > 0 && v[0] == '{' {
			maybe = append(maybe, v)
		}
	}
	return unwrapAll(maybe, depth)
}

func unquoted(v jsontext.Value) (string, error) {
	var s string
	if err := json.Unmarshal(v, &s, splitOptions...); err != nil {
		return "", errNotJSON
	}
	return s, nil
}

// fromAzure reads the record of an event: it is a text within.
func fromAzure(e *entry, depth int) ([]jsontext.Value, error) {
	if e.Category != "" && !strings.HasPrefix(e.Category, "kube-audit") {
		return nil, nil // the log of something else
	}
	properties := e.Properties
	if properties.Kind() == '"' { // as some exports have it
		text, err := unquoted(properties)
		if err != nil {
			return nil, err
		}
		properties = jsontext.Value(text)
	}
	var p struct {
		Log string `json:"log"`
	}
	if err := json.Unmarshal(properties, &p, splitOptions...); err != nil || p.Log == "" {
		return nil, errNoEvents
	}
	return unwrap([]byte(p.Log), depth+1)
}

// logEntry is what is read of a LogEntry with an AuditLog of Kubernetes' API
// (Cloud Logging's API reference; Cloud Audit Logs).
type logEntry struct {
	Timestamp time.Time         `json:"timestamp"`
	Labels    map[string]string `json:"labels"`
	InsertID  string            `json:"insertId"`
	Operation struct {
		ID string `json:"id"`
	} `json:"operation"`
	ProtoPayload struct {
		ServiceName        string `json:"serviceName"`
		MethodName         string `json:"methodName"`
		ResourceName       string `json:"resourceName"`
		AuthenticationInfo struct {
			PrincipalEmail string `json:"principalEmail"`
		} `json:"authenticationInfo"`
		RequestMetadata struct {
			CallerIP  string `json:"callerIp"`
			UserAgent string `json:"callerSuppliedUserAgent"`
		} `json:"requestMetadata"`
		Request  jsontext.Value `json:"request"`
		Response jsontext.Value `json:"response"`
		Status   *struct {
			Code    int32  `json:"code"`
			Message string `json:"message"`
		} `json:"status"`
	} `json:"protoPayload"`
}

// fromGoogle makes an event of a LogEntry. What that leaves out of an event, such
// as the user's groups and extra, and the stage, can't be known: it is taken for
// the last one.
func fromGoogle(text []byte) ([]jsontext.Value, error) {
	var e logEntry
	if err := json.Unmarshal(text, &e, splitOptions...); err != nil {
		return nil, errNoEvents
	}
	p := &e.ProtoPayload
	if !strings.HasPrefix(p.MethodName, "io.") && p.ServiceName != "k8s.io" {
		return nil, nil // the log of something else
	}
	id := e.Operation.ID
	if id == "" {
		id = e.InsertID
	}
	ev := event{
		Level: "Metadata", AuditID: id, Stage: "ResponseComplete", Verb: p.MethodName[strings.LastIndexByte(p.MethodName, '.')+1:],
		User: userInfo{Username: p.AuthenticationInfo.PrincipalEmail}, UserAgent: p.RequestMetadata.UserAgent,
		Received: e.Timestamp, StageTime: e.Timestamp, Annotations: e.Labels,
		RequestObject: p.Request, ResponseObject: p.Response,
	}
	if p.RequestMetadata.CallerIP != "" {
		ev.SourceIPs = []string{p.RequestMetadata.CallerIP}
	}
	if len(p.Request) > 0 {
		ev.Level = "Request"
	}
	if len(p.Response) > 0 {
		ev.Level = "RequestResponse"
	}
	ev.ObjectRef, ev.RequestURI = googleResource(p.ResourceName)
	st := status{Code: http.StatusOK}
	if p.Status != nil && p.Status.Code != 0 {
		st = status{Code: httpCode(p.Status.Code), Message: p.Status.Message}
	}
	var said status
	if p.Response.Kind() == '{' && json.Unmarshal(p.Response, &said, splitOptions...) == nil && said.Code >= 100 && said.Code < 600 {
		st = said // a Status says it better
	}
	var err error
	if ev.ResponseStatus, err = json.Marshal(st); err != nil {
		return nil, errNoEvents
	}
	out, err := json.Marshal(ev, splitOptions...)
	if err != nil {
		return nil, errNoEvents
	}
	return []jsontext.Value{out}, nil
}

// googleResource reads group/version/[namespaces/NAMESPACE/]RESOURCE[/NAME[/SUBRESOURCE]].
func googleResource(name string) (*objectRef, string) {
	parts := strings.Split(name, "/")
	if len(parts) < 3 {
		return nil, "/" + strings.TrimPrefix(name, "/")
	}
	ref := &objectRef{APIGroup: parts[0], APIVersion: parts[1]}
	uri := "/apis/" + name
	if ref.APIGroup == "core" {
		ref.APIGroup, uri = "", "/api/"+strings.TrimPrefix(name, "core/")
	}
	parts = parts[2:]
	if parts[0] == "namespaces" && len(parts) > 2 {
		ref.Namespace, parts = parts[1], parts[2:]
	}
	ref.Resource = parts[0]
	if len(parts) > 1 {
		ref.Name = parts[1]
	}
	if len(parts) > 2 {
		ref.Subresource = strings.Join(parts[2:], "/")
	}
	return ref, uri
}

// httpCode is the HTTP status of a google.rpc.Code (google/rpc/code.proto says so
// of each).
func httpCode(code int32) int32 {
	codes := [...]int32{200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401}
	if code < 0 || int(code) >= len(codes) {
		return http.StatusInternalServerError
	}
	return codes[code]
}

// LineError says of a line of a log that it couldn't be taken. Its text quotes
// nothing of it.
type LineError struct {
	Line   int
	Reason string
}

// Error gives the line and the reason.
func (e LineError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Reason) }

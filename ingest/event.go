package ingest

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// event is what Tipstaff keeps of an audit.k8s.io/v1 Event: fields that are
// not here are not stored, so that a field of a later version can't carry
// anything past the mask.
type event struct {
	Level            string         `json:"level"`
	AuditID          string         `json:"auditID"`
	Stage            string         `json:"stage"`
	RequestURI       string         `json:"requestURI"`
	Verb             string         `json:"verb"`
	User             userInfo       `json:"user"`
	ImpersonatedUser *userInfo      `json:"impersonatedUser,omitempty"`
	SourceIPs        []string       `json:"sourceIPs,omitempty"`
	UserAgent        string         `json:"userAgent,omitempty"`
	ObjectRef        *objectRef     `json:"objectRef,omitempty"`
	ResponseStatus   jsontext.Value `json:"responseStatus,omitempty"`
	RequestObject    jsontext.Value `json:"requestObject,omitempty"`
	ResponseObject   jsontext.Value `json:"responseObject,omitempty"`
	// Received and StageTime are RFC 3339 with microseconds.
	Received    time.Time         `json:"requestReceivedTimestamp"`
	StageTime   time.Time         `json:"stageTimestamp"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type userInfo struct {
	Username string              `json:"username,omitempty"`
	UID      string              `json:"uid,omitempty"`
	Groups   []string            `json:"groups,omitempty"`
	Extra    map[string][]string `json:"extra,omitempty"`
}

type objectRef struct {
	Resource        string `json:"resource,omitempty"`
	Namespace       string `json:"namespace,omitempty"`
	Name            string `json:"name,omitempty"`
	UID             string `json:"uid,omitempty"`
	APIGroup        string `json:"apiGroup,omitempty"`
	APIVersion      string `json:"apiVersion,omitempty"`
	ResourceVersion string `json:"resourceVersion,omitempty"`
	Subresource     string `json:"subresource,omitempty"`
}

// status is what is kept of a metav1.Status.
type status struct {
	Code    int32  `json:"code,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// maxIDBytes bounds an audit id. The API server cuts one that a client chose
// at 64 bytes (apiserver v1.37, endpoints/filters/audit_init.go).
const maxIDBytes = 256

// The store's times end here (ClickHouse's DateTime64 with microseconds).
var (
	earliest = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC)
)

var stages = map[string]bool{"RequestReceived": true, "ResponseStarted": true, "ResponseComplete": true, "Panic": true}

// decode reads one event. An error's text quotes nothing of it.
func decode(raw jsontext.Value) (*event, error) {
	ev := &event{}
	if raw.Kind() != '{' {
		return nil, errors.New("the event is no object")
	}
	if err := json.Unmarshal(raw, ev, splitOptions...); err != nil {
		var se *json.SemanticError
		if errors.As(err, &se) {
			// The pointer is made of names from the event: only the field counts.
			return nil, fmt.Errorf("a field has the wrong type, %s is wanted", se.GoType)
		}
		return nil, errors.New("the JSON is broken")
	}
	switch {
	case ev.AuditID == "":
		return nil, errors.New("the event has no auditID")
	case len(ev.AuditID) > maxIDBytes:
		return nil, errors.New("the auditID is too long")
	case !stages[ev.Stage]:
		return nil, errors.New("the stage is unknown")
	case ev.Received.Before(earliest), ev.StageTime.Before(earliest), ev.Received.After(latest), ev.StageTime.After(latest):
		return nil, errors.New("a time is missing or out of range")
	}
	return ev, nil
}

package webhook

import (
	"container/list"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	kjson "sigs.k8s.io/json"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
	"github.com/tipstaff-dev/tipstaff/mask"
	"github.com/tipstaff-dev/tipstaff/schema"
)

// maxRememberedBytes bounds the objects that are kept to be old objects of
// later requests: the longest unseen is forgotten first.
const maxRememberedBytes = 128 << 20

// Why a part of a recorded request is not known as it was.
const (
	unknownPatched   = "the object that a refused patch would have made is not recorded"
	unknownDefaults  = "the object of a refused request is recorded as it was sent, without the server's defaults"
	unknownBody      = "no object is recorded, or it is cut"
	unknownMasked    = "values in the recorded object are masked"
	unknownCommand   = "what was asked of the pod, node or service is not recorded"
	unknownOld       = "the old object is not recorded"
	unknownOldStale  = "the old object is the last one recorded: others may have changed it in between"
	unknownOldMasked = "values in the recorded old object are masked"
	unknownOptions   = "the request's options are not recorded"
	unknownKind      = "the object's kind is not recorded"
	unknownUser      = "the user's uid and extra are not recorded"
)

// Recorded rebuilds admission requests from the audit trail. An audit event
// has no old object: it is taken from what earlier events show of the same
// object, and the request then says that this is not certain.
type Recorded struct {
	agents  *clusteragents.Config
	objects map[string]*list.Element // of *remembered
	recent  list.List                // the longest unseen at the end
	bytes   int
}

type remembered struct {
	key, scope string
	raw        string
	version    string // metadata.resourceVersion
	kind       metav1.GroupVersionKind
	masked     bool
}

// NewRecorded makes a reader of events. agents are the identities of the
// cluster that count as agents, nil for none.
func NewRecorded(agents *clusteragents.Config) *Recorded {
	return &Recorded{agents: agents, objects: map[string]*list.Element{}}
}

// body is an object in an event.
type body struct {
	raw    string
	kind   metav1.GroupVersionKind
	name   string
	whole  metav1.ObjectMeta
	masked bool
}

// bodyOf reads a recorded object; nil where there is none, or something else
// than an object: a Status, a list, a table.
func bodyOf(raw string, truncated bool) *body {
	if raw == "" || truncated {
		return nil
	}
	var obj map[string]any
	var meta metav1.PartialObjectMetadata
	if kjson.UnmarshalCaseSensitivePreserveInts([]byte(raw), &obj) != nil || obj == nil ||
		kjson.UnmarshalCaseSensitivePreserveInts([]byte(raw), &meta) != nil {
		return nil
	}
	if meta.Kind == "Status" && meta.APIVersion == "v1" || strings.HasSuffix(meta.Kind, "List") && obj["items"] != nil {
		return nil
	}
	gvk := meta.GroupVersionKind()
	if gvk.Group == metav1.GroupName { // a table, or metadata alone
		return nil
	}
	b := &body{raw: raw, name: meta.Name, whole: meta.ObjectMeta}
	b.kind = metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
	_, b.masked = mask.ContainsMark(obj)
	return b
}

// connects are the subresources that the API server admits as CONNECT.
var connects = map[string]bool{"exec": true, "attach": true, "portforward": true, "proxy": true}

func operation(ev *schema.Event) admissionv1.Operation {
	if ev.APIGroup == "" && connects[ev.Subresource] {
		return admissionv1.Connect
	}
	switch ev.Verb {
	case "create":
		return admissionv1.Create
	case "update", "patch":
		if ev.Code == 201 {
			return admissionv1.Create
		}
		return admissionv1.Update
	case "delete", "deletecollection":
		return admissionv1.Delete
	}
	return ""
}

// Request rebuilds the request of ev. Events come in the order of time. False
// means that admission is not asked about such a request: it is only remembered.
func (c *Recorded) Request(ev *schema.Event) (TrialRequest, bool) {
	made := bodyOf(ev.ResponseObject, ev.Truncated)
	if ev.Code < 200 || ev.Code > 299 {
		made = nil
	}
	op := operation(ev)
	key, scope := objectKey(ev, made)
	old := c.find(key)
	defer c.learn(ev, op, key, scope, made)
	if op == "" {
		return TrialRequest{}, false
	}
	tr := TrialRequest{
		Request: &admissionv1.AdmissionRequest{
			UID: types.UID(ev.AuditID), Operation: op,
			Resource:    metav1.GroupVersionResource{Group: ev.APIGroup, Version: ev.APIVersion, Resource: ev.Resource},
			SubResource: ev.Subresource, Namespace: ev.Namespace, Name: ev.Name,
			UserInfo: authenticationv1.UserInfo{Username: ev.User, Groups: ev.Groups},
			DryRun:   &ev.DryRun,
		},
		Agent: v1alpha1.Agent{User: ev.User, Issuer: ev.Issuer, Run: ev.Run, Model: ev.Model, Owner: ev.Owner,
			Task: ev.Task, Profile: ev.Profile, CredentialID: ev.CredentialID},
		Source: ev.AuditID, At: ev.Received, Rule: ev.Rule, Unknown: map[Part]string{PartOptions: unknownOptions, PartUser: unknownUser},
	}
	switch {
	case ev.Issuer == "":
		tr.NotJudged = notAnAgent
	case ev.Impersonator != "" && !c.agents.IsAgent(ev.User, ev.Groups):
		tr.NotJudged = "an agent that acted as somebody else: the webhook is not asked about that one"
	case ev.Verdict == "" && ev.Code >= 400:
		tr.NotJudged = "refused before the webhook was asked"
	case ev.Code == 0:
		tr.NotJudged = "its end is not recorded"
	}
	if tr.NotJudged != "" {
		return tr, true
	}
	c.fillObject(&tr, ev, made)
	c.fillOld(&tr, ev, made, old)
	req := tr.Request
	if req.Name == "" && op == admissionv1.Create && made != nil && ev.Subresource == "" {
		req.Name = made.name
	}
	if ev.APIGroup == "" && ev.Resource == "namespaces" && req.Namespace == "" {
		req.Namespace = req.Name // as the API server tells it
	}
	if req.Kind.Kind == "" {
		tr.Unknown[PartKind] = unknownKind
	}
	req.RequestKind, req.RequestResource, req.RequestSubResource = &req.Kind, &req.Resource, req.SubResource
	return tr, true
}

func (c *Recorded) fillObject(tr *TrialRequest, ev *schema.Event, made *body) {
	req := tr.Request
	switch req.Operation {
	case admissionv1.Delete:
		return
	case admissionv1.Connect:
		tr.Unknown[PartObject] = unknownCommand
		return
	}
	sent := bodyOf(ev.RequestObject, ev.Truncated)
	b := made
	switch {
	case ev.Verb == "patch" && made == nil:
		tr.Unknown[PartObject] = unknownPatched
		return
	case ev.Verb == "patch":
	case ev.Subresource != "" && req.Operation == admissionv1.Create:
		b = sent // what comes back is of another kind, such as a token
	case made == nil:
		b = sent
		tr.Unknown[PartObject] = unknownDefaults
	}
	if b == nil {
		tr.Unknown[PartObject] = unknownBody
		return
	}
	if b.masked {
		tr.Unknown[PartObject] = unknownMasked
	}
	req.Object, req.Kind = runtime.RawExtension{Raw: []byte(b.raw)}, b.kind
}

func (c *Recorded) fillOld(tr *TrialRequest, ev *schema.Event, made *body, old *remembered) {
	req := tr.Request
	switch req.Operation {
	case admissionv1.Create:
		return
	case admissionv1.Connect:
		return
	case admissionv1.Delete:
		if made != nil && ev.Verb == "delete" && made.name == ev.Name { // answered with what was deleted
			req.OldObject, req.Kind = runtime.RawExtension{Raw: []byte(made.raw)}, made.kind
			if made.masked {
				tr.Unknown[PartOldObject] = unknownOldMasked
			}
			return
		}
	}
	if old == nil {
		tr.Unknown[PartOldObject] = unknownOld
		return
	}
	req.OldObject = runtime.RawExtension{Raw: []byte(old.raw)}
	if req.Kind.Kind == "" {
		req.Kind = old.kind
	}
	sent := bodyOf(ev.RequestObject, ev.Truncated)
	switch {
	case old.masked:
		tr.Unknown[PartOldObject] = unknownOldMasked
	case ev.Verb == "update" && made != nil && sent != nil && sent.whole.ResourceVersion != "" && sent.whole.ResourceVersion == old.version:
		// It went through, so the version that it named was the one stored.
	default:
		tr.Unknown[PartOldObject] = unknownOldStale
	}
}

// objectKey names the object that ev is about; scope is the collection it is in.
// Empty where it can't be named.
func objectKey(ev *schema.Event, made *body) (key, scope string) {
	form := ""
	switch ev.Subresource {
	case "", "status":
	case "scale":
		form = "scale"
	default:
		return "", ""
	}
	scope = strings.Join([]string{ev.Cluster, ev.APIGroup, ev.Resource, ev.Namespace}, "\x00")
	name := ev.Name
	if name == "" && made != nil {
		name = made.name
	}
	if name == "" {
		return "", scope
	}
	return strings.Join([]string{scope, name, ev.APIVersion, form}, "\x00"), scope
}

func (c *Recorded) find(key string) *remembered {
	e := c.objects[key]
	if e == nil {
		return nil
	}
	return e.Value.(*remembered)
}

// learn takes in what the event tells of its object.
func (c *Recorded) learn(ev *schema.Event, op admissionv1.Operation, key, scope string, made *body) {
	if ev.DryRun || ev.Code < 200 || ev.Code > 299 || op == admissionv1.Connect {
		return
	}
	if ev.Verb == "deletecollection" {
		for _, e := range c.objects {
			if e.Value.(*remembered).scope == scope {
				c.forget(e)
			}
		}
		return
	}
	if key == "" {
		return
	}
	if e := c.objects[key]; e != nil {
		c.forget(e)
	}
	if op == admissionv1.Delete || made == nil || made.name == "" || ev.Name != "" && made.name != ev.Name {
		return
	}
	r := &remembered{key: key, scope: scope, raw: made.raw, version: made.whole.ResourceVersion, kind: made.kind, masked: made.masked}
	c.objects[key] = c.recent.PushFront(r)
	c.bytes += r.size()
	for c.bytes > maxRememberedBytes {
		c.forget(c.recent.Back())
	}
}

func (r *remembered) size() int { return len(r.raw) + 2*len(r.key) + 256 }

func (c *Recorded) forget(e *list.Element) {
	r := c.recent.Remove(e).(*remembered)
	delete(c.objects, r.key)
	c.bytes -= r.size()
}

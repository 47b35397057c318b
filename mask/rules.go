package mask

import (
	"bytes"
	"strings"
)

// action is what is done with a value.
type action byte

const (
	actPlain    action = iota // looked at for known formats, and into
	actMark                   // masked, whatever it is
	actMark64                 // masked; its text is base64
	actField                  // a text whose own name says that it is a credential
	actValues                 // each member masked
	actValues64               // each member masked; their texts are base64
	actFree                   // free text
	actNamed                  // members whose name says that they are credentials are masked; the rest is free text
	actNamed64                // the same; their texts are base64
	actEnv                    // a container's environment: a list of names and values
	actArgs                   // a command line
	actNotes                  // annotations
	actManaged                // managedFields
	actCells                  // cells of a table's row
	actStrings                // every text below it masked, but for the first of a list: a table's cells where the kind has fields of its own that are masked
)

// node is what the rules say of a value and of what is below it.
type node struct {
	act  action
	kids map[string]*node
	any  *node // of every member that kids doesn't name
}

func (n *node) child(name []byte) *node {
	if n == nil {
		return nil
	}
	if k, ok := n.kids[string(name)]; ok {
		return k
	}
	return n.any
}

// kindRules are the rules of one kind.
type kindRules struct {
	kind string
	node *node
	// secret says that the kind's objects are credentials: their annotations and
	// what is said about them may quote them.
	secret bool
	// own says that its fields are named by an admin: cells may show them.
	own bool
}

func leaf(act action) *node { return &node{act: act} }

func inside(name string, n *node) *node { return &node{kids: map[string]*node{name: n}} }

var (
	secretRules = &kindRules{kind: "Secret", secret: true, node: &node{kids: map[string]*node{"data": leaf(actValues64), "stringData": leaf(actValues)}}}
	// Of what doesn't say what it is: masked as a Secret, but no value to be found elsewhere.
	unknownRules = &kindRules{node: secretRules.node}
	tokenRules   = &kindRules{kind: "TokenRequest", secret: true, node: inside("status", inside("token", leaf(actMark)))}
	csrRules     = &kindRules{kind: "CertificateSigningRequest", node: inside("status", inside("certificate", leaf(actMark64)))}
	configRules  = &kindRules{kind: "ConfigMap", node: &node{kids: map[string]*node{"data": leaf(actNamed), "binaryData": leaf(actNamed64)}}}
	reviewRules  = &kindRules{kind: "TokenReview", secret: true, node: inside("spec", inside("token", leaf(actMark)))}
)

// rules are all rules of a masker.
type rules struct {
	kinds     map[string]*kindRules // by kind, of whatever group: better a mark too many
	resources map[string]*kindRules // by resource
	names     map[string]bool       // whether a name, in lower case, is a credential's
	disabled  map[int]bool          // formats that are not looked for
}

// credential reports whether a name says that its value is a credential.
func (r *rules) credential(name []byte) bool {
	if len(r.names) > 0 {
		if is, ok := r.names[string(bytes.ToLower(name))]; ok {
			return is
		}
	}
	return credentialName(name)
}

// field is credential for the name of a field of any object.
func (r *rules) field(name []byte) bool {
	if len(r.names) > 0 {
		if is, ok := r.names[string(bytes.ToLower(name))]; ok {
			return is
		}
	}
	return fieldName(name)
}

func defaultRules() *rules {
	return &rules{
		names: map[string]bool{}, disabled: map[int]bool{},
		kinds: map[string]*kindRules{
			"Secret": secretRules, "TokenRequest": tokenRules, "CertificateSigningRequest": csrRules,
			"ConfigMap": configRules, "TokenReview": reviewRules,
		},
		resources: map[string]*kindRules{
			"secrets": secretRules, "serviceaccounts/token": tokenRules, "certificatesigningrequests": csrRules,
			"configmaps": configRules, "tokenreviews": reviewRules,
		},
	}
}

// Ref names what a request is about, as its path does.
type Ref struct{ Resource, Subresource string }

// about is what an object is taken for before it says so itself.
type about struct {
	rules *kindRules
	// known says that something says what it is; else its data is masked as if
	// it were a Secret's.
	known bool
	// sure says that the request names the kind: whatever the object calls
	// itself, it is masked as this.
	sure bool
	// resource is what the request names.
	resource string
}

// of gives what the objects of an answer about ref are.
func (r *rules) of(ref Ref) about {
	if ref.Resource == "" {
		return about{}
	}
	if k, ok := r.resources[ref.Resource+"/"+ref.Subresource]; ok && ref.Subresource != "" {
		return about{k, true, true, ref.Resource}
	}
	if k, ok := r.resources[ref.Resource]; ok && (ref.Subresource == "" || ref.Subresource == "status" || k.secret || k == csrRules) {
		return about{k, true, true, ref.Resource}
	}
	return about{known: true, resource: ref.Resource}
}

// Wraps reports whether objects of the kind hold or stand for others, and so
// have no fields that rules name.
func Wraps(kind string) bool {
	switch kind {
	case "Status", "Table", "PartialObjectMetadata", "WatchEvent":
		return true
	}
	return strings.HasSuffix(kind, "List")
}

// named gives what an object is that calls itself kind, where a says what it
// should be.
func (r *rules) named(a about, kind string) (k *kindRules, both bool) {
	if kind == "" {
		if !a.known {
			return unknownRules, false
		}
		return a.rules, false
	}
	if Wraps(kind) {
		return nil, false
	}
	own := r.kinds[kind]
	if a.sure && a.rules != nil {
		return a.rules, own != nil && own != a.rules
	}
	return own, false
}

// item gives what the items of a list are that calls itself kind.
func (r *rules) item(a about, kind string) about {
	if a.sure {
		return a
	}
	item, ok := strings.CutSuffix(kind, "List")
	switch {
	case !ok || item == "":
		return about{} // a list of anything
	case item == "PartialObjectMetadata":
		return a
	}
	k := r.kinds[item]
	return about{rules: k, known: true, sure: k != nil}
}

// mayComeLate reports whether an answer whose items were taken for those of
// kind (empty: of anything) may say only then that it is of another.
func (r *rules) mayComeLate(kind, late string) bool {
	item := r.item(about{}, late)
	if kind == "" {
		// Of anything: as Secrets.
		return (r.kinds[late] == nil || r.kinds[late] == secretRules) && (item.rules == nil || item.rules == secretRules)
	}
	return r.kinds[late] == nil && item.rules == nil && late != "Status"
}

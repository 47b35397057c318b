package conformance

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// holder is one planted object, with the values of one or more places.
type holder struct {
	gvr    schema.GroupVersionResource
	views  []schema.GroupVersionResource // that serve the same object
	object map[string]any
	values []Value

	// first is the name of a Secret that the agent reads before: what it holds
	// is known to whoever masks.
	first string
	// apply says that it is made by server-side apply.
	apply bool
	// after fills what only others than its author can write: the place fills.
	fills string
	after func(context.Context, *planter, *holder) error
	// move points (RFC 6901) to a value that a patch may copy to another field.
	move string
	// refused is a JSON patch that validation refuses, with an error that quotes
	// the object.
	refused string
	// writeBack says that it is read and replaced unchanged (I8).
	writeBack bool
	// selector is a field selector that answers whether a value is the one asked for.
	selector func(value string) string
}

func (h *holder) metadata() map[string]any { return h.object["metadata"].(map[string]any) }
func (h *holder) name() string             { return h.metadata()["name"].(string) }
func (h *holder) namespace() string        { return text(h.metadata()["namespace"]) }

func text(v any) string {
	s, _ := v.(string)
	return s
}

// plant notes a value of a place, and gives what is to be written.
func (h *holder) plant(place string, c credential) string {
	h.values = append(h.values, Value{Place: place, Secret: []byte(c.secret)})
	return c.text
}

// builder makes the objects of one run.
type builder struct{ namespace, suffix string }

var (
	secrets       = resource("", "secrets")
	configMaps    = resource("", "configmaps")
	pods          = resource("", "pods")
	events        = resource("", "events")
	accounts      = resource("", "serviceaccounts")
	namespaces    = resource("", "namespaces")
	deployments   = resource("apps", "deployments")
	jobs          = resource("batch", "jobs")
	csrs          = resource("certificates.k8s.io", "certificatesigningrequests")
	crds          = resource("apiextensions.k8s.io", "customresourcedefinitions")
	widgets       = resource("conformance.tipstaff.dev", "widgets")
	tokenAccount  = "token-account"
	neverScheduls = map[string]any{"tipstaff.dev/conformance": "never"}
)

func resource(group, name string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: "v1", Resource: name}
}

// object begins a holder of the run's namespace.
func (b *builder) object(gvr schema.GroupVersionResource, kind, name string) *holder {
	meta := map[string]any{"name": name + "-" + b.suffix, "namespace": b.namespace, "annotations": map[string]any{}}
	return &holder{gvr: gvr, object: map[string]any{"apiVersion": gvr.GroupVersion().String(), "kind": kind, "metadata": meta}}
}

// label says whose it is of an object that the namespace doesn't hold.
func (b *builder) label(object map[string]any) {
	object["metadata"].(map[string]any)["labels"] = map[string]any{ownerLabel: b.namespace}
}

func (h *holder) annotate(name, value string) {
	h.metadata()["annotations"].(map[string]any)[name] = value
}

func (b *builder) secret(name, kind string) (*holder, func(key, value string)) {
	h := b.object(secrets, "Secret", name)
	data := map[string]any{}
	h.object["type"], h.object["data"] = kind, data
	return h, func(key, value string) { data[key] = base64.StdEncoding.EncodeToString([]byte(value)) }
}

func (b *builder) configMap(name string) (*holder, map[string]any) {
	h := b.object(configMaps, "ConfigMap", name)
	data := map[string]any{}
	h.object["data"] = data
	return h, data
}

// recipes make the holders, in the order in which they are planted and printed.
var recipes = []func(*builder) *holder{
	opaque, tlsSecret, dockerConfig, basicAuth, sshAuth, bootstrapToken, accountToken, helmRelease, appliedSecret,
	configMapKeys, configMapContent, knownSecret, knownConfigMap, quotingConfigMap, setField,
	event, workload(pods, "Pod"), workload(deployments, "Deployment"),
	workload(resource("apps", "replicasets"), "ReplicaSet"), workload(resource("apps", "statefulsets"), "StatefulSet"),
	workload(resource("apps", "daemonsets"), "DaemonSet"), workload(jobs, "Job"),
	workload(resource("batch", "cronjobs"), "CronJob"), workload(resource("", "replicationcontrollers"), "ReplicationController"),
	workload(resource("", "podtemplates"), "PodTemplate"), workload(resource("apps", "controllerrevisions"), "ControllerRevision"),
	signedCertificate,
}

func opaque(b *builder) *holder {
	h, set := b.secret("opaque", "Opaque")
	set("password", h.plant("secret-data", oddPassword()))
	h.object["stringData"] = map[string]any{"typed": h.plant("secret-string-data", oddPassword())}
	h.move, h.writeBack = "/data/password", true
	return h
}

func tlsSecret(b *builder) *holder {
	h, set := b.secret("tls", "kubernetes.io/tls")
	set("tls.crt", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
	set("tls.key", h.plant("secret-tls", privateKey()))
	return h
}

func dockerConfig(b *builder) *holder {
	h, set := b.secret("docker", "kubernetes.io/dockerconfigjson")
	p := h.plant("secret-docker-config", password())
	set(".dockerconfigjson", compact(map[string]any{"auths": map[string]any{"registry.example.com": map[string]any{
		"username": "app", "password": p, "auth": base64.StdEncoding.EncodeToString([]byte("app:" + p)),
	}}}))
	return h
}

func basicAuth(b *builder) *holder {
	h, set := b.secret("basic-auth", "kubernetes.io/basic-auth")
	set("username", "app")
	set("password", h.plant("secret-basic-auth", password()))
	return h
}

func sshAuth(b *builder) *holder {
	h, set := b.secret("ssh-auth", "kubernetes.io/ssh-auth")
	set("ssh-privatekey", h.plant("secret-ssh-auth", privateKey()))
	return h
}

// bootstrapToken can only be one in kube-system. It lets nobody in: it is for no use.
func bootstrapToken(b *builder) *holder {
	id := random(lower, 6)
	h, set := b.secret("bootstrap", "bootstrap.kubernetes.io/token")
	h.metadata()["name"], h.metadata()["namespace"] = "bootstrap-token-"+id, "kube-system"
	b.label(h.object)
	set("token-id", id)
	set("token-secret", h.plant("secret-bootstrap-token", whole(random(lower, 16))))
	set("expiration", time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	return h
}

// accountToken is filled by kube-controller-manager.
func accountToken(b *builder) *holder {
	h, _ := b.secret("account-token", "kubernetes.io/service-account-token")
	delete(h.object, "data")
	h.annotate("kubernetes.io/service-account.name", tokenAccount)
	h.fills = "secret-account-token"
	h.after = func(ctx context.Context, p *planter, h *holder) error { return p.awaitToken(ctx, h) }
	return h
}

// helmRelease is as Helm stores one: JSON, packed, in base64, in data. What
// else it holds makes the answer so large that the API server packs it.
func helmRelease(b *builder) *holder {
	h, set := b.secret("helm", "helm.sh/release.v1")
	h.metadata()["name"] = "sh.helm.release.v1.app-" + b.suffix + ".v1"
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write([]byte(compact(map[string]any{ // a buffer takes all
		"name": "app", "version": 1, "namespace": b.namespace, "config": map[string]any{"password": h.plant("secret-helm-release", password())},
		"manifest": random(alnum, 120<<10),
	})))
	_ = w.Close()
	set("release", base64.StdEncoding.EncodeToString(z.Bytes()))
	return h
}

// ownerLabel names the namespace of the run that planted an object elsewhere.
const ownerLabel = "conformance.tipstaff.dev/namespace"

const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// quotedSecret is a Secret's manifest as annotations quote it.
func quotedSecret(h *holder, dataPlace, typedPlace string) string {
	return compact(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": h.name(), "namespace": h.namespace()},
		"data":       map[string]any{"password": base64.StdEncoding.EncodeToString([]byte(h.plant(dataPlace, oddPassword())))},
		"stringData": map[string]any{"typed": h.plant(typedPlace, oddPassword())},
	})
}

func appliedSecret(b *builder) *holder {
	h, set := b.secret("applied", "Opaque")
	set("password", h.plant("secret-data-applied", oddPassword()))
	h.annotate(lastApplied, quotedSecret(h, "secret-last-applied-data", "secret-last-applied-string-data"))
	h.annotate("example.com/original", quotedSecret(h, "secret-annotation-data", "secret-annotation-string-data"))
	return h
}

func configMapKeys(b *builder) *holder {
	h, data := b.configMap("keys")
	data["password"] = h.plant("configmap-key-password", oddPassword())
	data["api-token"] = h.plant("configmap-key-api-token", password())
	data["DB_PASSWORD"] = h.plant("configmap-key-db-password", password())
	data["config.yaml"] = "db:\n  user: app\n  password: " + h.plant("configmap-file-password", password()) + "\n"
	h.object["binaryData"] = map[string]any{"secret-key": base64.StdEncoding.EncodeToString([]byte(h.plant("configmap-binary-data", password())))}
	h.move, h.writeBack = "/data/password", true
	return h
}

func configMapContent(b *builder) *holder {
	h, data := b.configMap("content")
	data["a"] = "uses " + h.plant("configmap-github-token", githubToken()) + " to push"
	data["b"] = "id " + h.plant("configmap-aws-key", awsKeyID())
	data["c"] = "# the key\n" + h.plant("configmap-private-key", privateKey()) + "# its end\n"
	data["d"] = "primary: " + h.plant("configmap-database-url", databaseURL())
	data["e"] = "session " + h.plant("configmap-jwt", jwt()) + " of the admin"
	data["f"] = random(alnum, 130<<10) // so large that the API server packs the answer
	h.writeBack = true
	return h
}

// knownSecret is what knownConfigMap and the event hold, too.
func knownSecret(b *builder) *holder {
	h, set := b.secret("known", "Opaque")
	set("plain", h.plant("known-value-configmap", password()))
	set("coded", h.plant("known-value-configmap-base64", password()))
	set("event", h.plant("known-value-event", password()))
	return h
}

// knownConfigMap holds a Secret's values where nothing else tells what they are.
// Its values are knownSecret's: see [build].
func knownConfigMap(b *builder) *holder {
	h, _ := b.configMap("known-copy")
	h.first = "known-" + b.suffix
	return h
}

func quotingConfigMap(b *builder) *holder {
	h, data := b.configMap("quoting")
	data["mode"] = "fast"
	h.annotate(lastApplied, compact(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": h.name()},
		"data": map[string]any{"password": h.plant("configmap-last-applied", oddPassword())},
	}))
	h.annotate("example.com/original", quotedSecret(h, "configmap-annotation-secret-data", "configmap-annotation-secret-string-data"))
	h.writeBack = true
	h.annotate("example.com/note", "deployed with "+h.plant("configmap-annotation-github-token", githubToken()))
	return h
}

// setField has a list of type set: managedFields repeats its values.
func setField(b *builder) *holder {
	h, data := b.configMap("set")
	data["mode"] = "fast"
	h.metadata()["finalizers"] = []any{"example.com/" + h.plant("managed-fields-set", githubToken())}
	h.apply = true
	return h
}

func event(b *builder) *holder {
	h := b.object(events, "Event", "event")
	h.views = []schema.GroupVersionResource{resource("events.k8s.io", "events")}
	h.first = "known-" + b.suffix
	h.object["involvedObject"] = map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "name": "keys-" + b.suffix, "namespace": b.namespace}
	h.object["reason"], h.object["type"] = "LoginFailed", "Warning"
	h.object["message"] = "login with " + h.plant("event-github-token", githubToken()) + " refused"
	return h
}

// workload is of a kind that has a pod's template somewhere. Nothing of it ever runs.
func workload(gvr schema.GroupVersionResource, kind string) func(*builder) *holder {
	return func(b *builder) *holder {
		short := strings.ToLower(kind)
		h := b.object(gvr, kind, short)
		var env []any
		for _, e := range []struct{ name, place string }{{"DB_PASSWORD", "env"}, {"API_TOKEN", "env-token"}} {
			env = append(env, map[string]any{"name": e.name, "value": h.plant(short+"-"+e.place, oddPassword())})
		}
		spec := map[string]any{
			"automountServiceAccountToken": false, "nodeSelector": neverScheduls, "terminationGracePeriodSeconds": 0,
			"containers": []any{map[string]any{
				"name": "app", "image": "registry.example.com/app:1", "env": env,
				"command": []any{"app", "--api-key=" + h.plant(short+"-command", password())},
				"args":    []any{"--password=" + h.plant(short+"-args-joined", password()), "--token", h.plant(short+"-args-apart", password()), "serve"},
			}},
		}
		labels := map[string]any{"app": h.name()}
		template := map[string]any{"metadata": map[string]any{"labels": labels}, "spec": spec}
		selector := map[string]any{"matchLabels": labels}
		at := "/spec/template/spec"
		switch kind {
		case "Pod":
			h.object["spec"], at, h.writeBack = spec, "/spec", true
			spec["schedulingGates"] = []any{map[string]any{"name": "tipstaff.dev/conformance"}}
			h.refused = `[{"op":"replace","path":"/spec/containers/0/env/0/value","value":"changed"},{"op":"replace","path":"/spec/containers/0/args/0","value":"changed"}]`
		case "Deployment":
			h.object["spec"] = map[string]any{"replicas": 0, "selector": selector, "template": template}
			h.writeBack = true
			h.annotate(lastApplied, compact(map[string]any{
				"apiVersion": "apps/v1", "kind": kind, "metadata": map[string]any{"name": h.name()},
				"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"containers": []any{map[string]any{
					"name": "app", "env": []any{map[string]any{"name": "DB_PASSWORD", "value": h.plant("deployment-last-applied-env", oddPassword())}},
				}}}}},
			}))
		case "ReplicaSet":
			h.object["spec"] = map[string]any{"replicas": 0, "selector": selector, "template": template}
		case "StatefulSet":
			h.object["spec"] = map[string]any{"replicas": 0, "serviceName": "none", "selector": selector, "template": template}
		case "DaemonSet":
			h.object["spec"] = map[string]any{"selector": selector, "template": template}
		case "ReplicationController":
			h.object["spec"] = map[string]any{"replicas": 0, "selector": labels, "template": template}
		case "Job":
			spec["restartPolicy"] = "Never"
			h.object["spec"] = map[string]any{"suspend": true, "template": template}
			h.refused = `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"registry.example.com/app:2"}]`
		case "CronJob":
			spec["restartPolicy"] = "Never"
			h.object["spec"] = map[string]any{"suspend": true, "schedule": "0 0 1 1 *", "jobTemplate": map[string]any{"spec": map[string]any{"template": template}}}
			at = "/spec/jobTemplate/spec/template/spec"
		case "PodTemplate":
			h.object["template"], at = template, "/template/spec"
		case "ControllerRevision":
			h.object["revision"], at = 1, "/data/spec/template/spec"
			h.object["data"] = map[string]any{"spec": map[string]any{"template": template}}
		}
		h.move = at + "/containers/0/env/0/value"
		return h
	}
}

// signedCertificate is a CSR that a signer has answered.
func signedCertificate(b *builder) *holder {
	h := b.object(csrs, "CertificateSigningRequest", "signed")
	delete(h.metadata(), "namespace")
	b.label(h.object)
	h.object["spec"] = map[string]any{
		"request":    base64.StdEncoding.EncodeToString([]byte(signingRequest(h.name()))),
		"signerName": "conformance.tipstaff.dev/nobody", "usages": []any{"client auth"}, "expirationSeconds": 600,
	}
	h.fills = "csr-certificate"
	h.after = func(ctx context.Context, p *planter, h *holder) error { return p.sign(ctx, h) }
	return h
}

// widget is of a kind of the suite's own: what of it is masked is configuration.
func widget(b *builder) *holder {
	h := b.object(widgets, "Widget", "widget")
	configured := password()
	h.object["spec"] = map[string]any{
		"credential": h.plant("crd-configured-path", configured),
		"note":       h.plant("crd-printed-column", githubToken()),
	}
	h.move = "/spec/credential"
	h.selector = func(value string) string {
		if value == "" {
			value = configured.text
		}
		return "spec.credential=" + value
	}
	return h
}

// widgetDefinition is the CRD of widgets: a column shows each field, and one can
// be selected by.
func widgetDefinition() map[string]any {
	str := map[string]any{"type": "string"}
	column := func(name string) map[string]any {
		return map[string]any{"name": name, "type": "string", "jsonPath": ".spec." + name}
	}
	return map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": widgets.GroupResource().String()},
		"spec": map[string]any{
			"group": widgets.Group, "scope": "Namespaced",
			"names": map[string]any{"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true,
				"additionalPrinterColumns": []any{column("credential"), column("note")},
				"selectableFields":         []any{map[string]any{"jsonPath": ".spec.credential"}},
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "properties": map[string]any{
					"spec": map[string]any{"type": "object", "properties": map[string]any{"credential": str, "note": str}},
				}}},
			}},
		},
	}
}

// build makes the holders of the places that are wanted.
func build(b *builder, withCRD bool, wanted func(place string) bool) []*holder {
	var all []*holder
	for _, r := range recipes {
		all = append(all, r(b))
	}
	if withCRD {
		all = append(all, widget(b))
	}
	shareKnown(all, b)
	firsts := map[string]bool{}
	for _, h := range all {
		if h.values = slices.DeleteFunc(h.values, func(v Value) bool { return !wanted(v.Place) }); len(h.values) > 0 {
			firsts[h.first] = true
		}
	}
	return slices.DeleteFunc(all, func(h *holder) bool {
		return len(h.values) == 0 && (h.fills == "" || !wanted(h.fills)) && !firsts[h.name()]
	})
}

// shareKnown writes the known Secret's values to where they are known by.
func shareKnown(all []*holder, b *builder) {
	by := map[string]*holder{}
	for _, h := range all {
		by[h.name()] = h
	}
	known, copied, ev := by["known-"+b.suffix], by["known-copy-"+b.suffix], by["event-"+b.suffix]
	v := known.values
	copied.object["data"] = map[string]any{
		"motto": "as they say, " + string(v[0].Secret) + " it is",
		"code":  "bytes: " + base64.StdEncoding.EncodeToString(v[1].Secret),
	}
	copied.values = append(copied.values, v[0], v[1])
	ev.object["message"] = text(ev.object["message"]) + "; tried " + string(v[2].Secret) + " then"
	ev.values = append(ev.values, v[2])
	known.values[0].Place, known.values[1].Place, known.values[2].Place = "known-value-source", "known-value-source", "known-value-source"
}

func compact(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("conformance: a table of ours is no JSON: %v", err)) // a bug of ours
	}
	return string(b)
}

package conformance

import (
	"net/http"
	"path"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// read is one way to ask for an object, or for all of a resource.
type read struct {
	name string
	// on says for which objects it is; nil is all.
	on     func(h *holder) bool
	method string // empty is GET
	// path changes the path that a client would ask for.
	path  func(p string) string
	query string
	// accept is the Accept header: empty is application/json, none is no header.
	accept string
	header [][2]string
	// body is sent; it is of contentType.
	body        func(h *holder) string
	contentType string
	// replace sends back what a GET answers.
	replace bool
	http1   bool
	stream  bool
	pages   bool // follows the continue tokens
	// quotes are the codes of the error that an API server answers with, which
	// quotes the object: such an answer is a read.
	quotes []int
}

const (
	none    = "none"
	asTable = "application/json;as=Table;v=v1;g=meta.k8s.io"
	asMeta  = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
	asMetas = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
	dryRun  = "dryRun=All&fieldManager=tipstaff-conformance-agent"
)

// formats are how a client may ask for one object or for many.
var formats = []read{
	{name: "json"},
	{name: "no-accept", accept: none},
	{name: "any", accept: "*/*"},
	{name: "any-application", accept: "application/*"},
	{name: "yaml", accept: "application/yaml"},
	{name: "protobuf", accept: "application/vnd.kubernetes.protobuf"},
	{name: "protobuf-or-any", accept: "application/vnd.kubernetes.protobuf;q=1, */*;q=0.5"},
	{name: "protobuf-or-json", accept: "application/vnd.kubernetes.protobuf, application/json"},
	{name: "cbor", accept: "application/cbor"},
	{name: "cbor-or-json", accept: "application/cbor, application/json;q=0.5"},
	{name: "json-yaml-mixed", accept: "application/json;q=0.1, application/yaml;q=0.9"},
	{name: "table", accept: asTable},
	{name: "table-with-objects", accept: asTable, query: "includeObject=Object"},
	{name: "table-or-json", accept: asTable + ", application/json", query: "includeObject=Object"},
	{name: "pretty", query: "pretty=true"},
	{name: "gzip", header: [][2]string{{"Accept-Encoding", "gzip"}}},
	{name: "gzip-http1", http1: true, header: [][2]string{{"Accept-Encoding", "gzip, deflate, br"}}},
	{name: "http1", http1: true},
	{name: "cached", query: "resourceVersion=0"},
	{name: "range", header: [][2]string{{"Range", "bytes=0-99999"}}},
}

// objectReads are of one object.
var objectReads = append(named("get", formats), []read{
	{name: "get-metadata", accept: asMeta},
	{name: "get-metadata-protobuf", accept: "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io, " + asMeta},
	{name: "head", method: http.MethodHead},
	{name: "options", method: http.MethodOptions},
	{name: "list-by-name", path: path.Dir, query: "fieldSelector=metadata.name%3D{name}"},
	{name: "watch-by-name", path: path.Dir, query: "watch=1&timeoutSeconds=1&resourceVersion=0&fieldSelector=metadata.name%3D{name}", stream: true},
	{name: "watch-legacy-path", path: legacyWatch, query: "timeoutSeconds=1&resourceVersion=0", stream: true},
	{name: "subresource-status", path: suffix("/status"), on: not(secrets, configMaps, events)},
	{name: "subresource-ephemeralcontainers", path: suffix("/ephemeralcontainers"), on: only(pods)},
	{name: "subresource-resize", path: suffix("/resize"), on: only(pods)},
	{name: "subresource-approval", path: suffix("/approval"), on: only(csrs)},
	{name: "log", path: suffix("/log"), on: only(pods)},

	{name: "path-double-slash", path: func(p string) string { return "/" + p }},
	{name: "path-inner-slashes", path: func(p string) string { return strings.Replace(p, "/namespaces/", "//namespaces//", 1) }},
	{name: "path-trailing-slash", path: suffix("/")},
	{name: "path-dot", path: func(p string) string { return path.Dir(p) + "/./" + path.Base(p) }},
	{name: "path-dot-dot", path: func(p string) string { return path.Dir(p) + "/x/../" + path.Base(p) }},
	{name: "path-dot-dot-escaped", path: func(p string) string { return path.Dir(p) + "/x/%2e%2e/" + path.Base(p) }},
	{name: "path-other-resource-dot-dot", path: func(p string) string { return "/api/v1/namespaces/../.." + p }},
	{name: "path-escaped-slash", path: func(p string) string { return path.Dir(p) + "%2f" + path.Base(p) }},
	{name: "path-escaped-letters", path: func(p string) string { return path.Dir(p) + "/" + escapeAll(path.Base(p)) }},
	{name: "path-resource-escaped", path: func(p string) string {
		return path.Dir(path.Dir(p)) + "/" + escapeAll(path.Base(path.Dir(p))) + "/" + path.Base(p)
	}},
	{name: "path-upper-case", path: func(p string) string {
		return path.Dir(path.Dir(p)) + "/" + strings.ToUpper(path.Base(path.Dir(p))) + "/" + path.Base(p)
	}},
	{name: "path-query-twice", query: "watch=false&watch=true&pretty=true&timeoutSeconds=1", stream: true},

	{name: "header-impersonate", header: [][2]string{{"Impersonate-User", "admin"}, {"Impersonate-Group", "system:masters"}}},
	{name: "header-impersonate-nominated", http1: true, header: [][2]string{{"Connection", "Impersonate-User, Impersonate-Group, Authorization-Extra"}, {"Impersonate-User", "admin"}, {"Impersonate-Group", "system:masters"}}},
	{name: "header-impersonate-underscore", http1: true, header: [][2]string{{"Impersonate_User", "admin"}, {"Impersonate_Group", "system:masters"}}},
	{name: "header-remote-user", header: [][2]string{{"X-Remote-User", "admin"}, {"X-Remote-Group", "system:masters"}, {"X-Remote-Uid", "0"}}},
	{name: "header-forwarded", header: [][2]string{{"X-Forwarded-For", "127.0.0.1"}, {"X-Forwarded-Host", "localhost"}, {"X-Original-Url", "/api/v1/secrets"}, {"X-Rewrite-Url", "/api/v1/secrets"}}},
	{name: "header-method-override", header: [][2]string{{"X-Http-Method-Override", "PATCH"}}},
	{name: "header-upgrade", http1: true, header: [][2]string{{"Connection", "Upgrade"}, {"Upgrade", "websocket"}, {"Sec-WebSocket-Version", "13"}, {"Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="}}},
	{name: "watch-websocket", http1: true, stream: true, path: path.Dir, query: "watch=1&timeoutSeconds=1&resourceVersion=0", header: [][2]string{{"Connection", "Upgrade"}, {"Upgrade", "websocket"}, {"Sec-WebSocket-Version", "13"}, {"Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="}}},

	{name: "write-empty-merge-patch", method: http.MethodPatch, query: dryRun, contentType: "application/merge-patch+json", body: always("{}")},
	{name: "write-empty-strategic-patch", method: http.MethodPatch, query: dryRun, contentType: "application/strategic-merge-patch+json", body: always("{}"), on: not(widgets)},
	{name: "write-empty-json-patch", method: http.MethodPatch, query: dryRun, contentType: "application/json-patch+json", body: always("[]")},
	{name: "write-empty-patch-table", method: http.MethodPatch, query: dryRun + "&includeObject=Object", accept: asTable, contentType: "application/merge-patch+json", body: always("{}")},
	{name: "write-empty-patch-protobuf", method: http.MethodPatch, query: dryRun, accept: "application/vnd.kubernetes.protobuf", contentType: "application/merge-patch+json", body: always("{}")},
	{name: "write-label-patch", method: http.MethodPatch, query: dryRun, contentType: "application/merge-patch+json", body: always(`{"metadata":{"labels":{"tried":"yes"}}}`)},
	{name: "write-apply", method: http.MethodPatch, query: dryRun, contentType: "application/apply-patch+yaml", body: func(h *holder) string { return applied(h, nil) }},
	{name: "write-apply-conflict", method: http.MethodPatch, query: dryRun, contentType: "application/apply-patch+yaml", on: only(secrets, configMaps), quotes: []int{http.StatusConflict}, body: conflicting},
	{name: "write-replace", method: http.MethodPut, query: dryRun, contentType: "application/json", replace: true},
	{name: "write-status-patch", method: http.MethodPatch, path: suffix("/status"), query: dryRun, contentType: "application/merge-patch+json", body: always("{}"), on: not(secrets, configMaps, events)},
	{name: "write-delete", method: http.MethodDelete, query: "dryRun=All&propagationPolicy=Foreground", on: inNamespace},
	{name: "write-copy-value", method: http.MethodPatch, query: dryRun, contentType: "application/json-patch+json", on: func(h *holder) bool { return h.move != "" }, body: func(h *holder) string {
		return `[{"op":"add","path":"/metadata/annotations","value":{}},{"op":"copy","from":"` + h.move + `","path":"/metadata/annotations/moved"},{"op":"test","path":"/metadata/name","value":"` + h.name() + `"}]`
	}},
	{name: "write-rename-env", method: http.MethodPatch, query: dryRun, contentType: "application/json-patch+json", on: func(h *holder) bool {
		return strings.HasSuffix(h.move, "/env/0/value") && h.gvr != pods && h.gvr != jobs && h.gvr.Resource != "controllerrevisions"
	}, body: func(h *holder) string {
		return `[{"op":"replace","path":"` + strings.TrimSuffix(h.move, "value") + `name","value":"COLOUR"}]`
	}},
	{name: "error-patch-of-wrong-type", method: http.MethodPatch, query: dryRun, contentType: "application/merge-patch+json", body: always(`{"metadata":{"labels":5}}`), quotes: []int{http.StatusBadRequest, http.StatusUnprocessableEntity}},
	{name: "error-json-patch-of-wrong-type", method: http.MethodPatch, query: dryRun, contentType: "application/json-patch+json", body: always(`[{"op":"add","path":"/metadata/labels","value":5}]`), quotes: []int{http.StatusBadRequest, http.StatusUnprocessableEntity}},
	{name: "error-unknown-field", method: http.MethodPatch, query: dryRun + "&fieldValidation=Strict", contentType: "application/merge-patch+json", body: always(`{"unheardOf":1}`), quotes: []int{http.StatusBadRequest, http.StatusUnprocessableEntity}},
	{name: "error-failed-test", method: http.MethodPatch, query: dryRun, contentType: "application/json-patch+json", on: func(h *holder) bool { return h.move != "" }, quotes: []int{http.StatusBadRequest, http.StatusUnprocessableEntity}, body: func(h *holder) string { return `[{"op":"test","path":"` + h.move + `","value":"a guess"}]` }},
	{name: "error-refused-change", method: http.MethodPatch, query: dryRun, contentType: "application/json-patch+json", on: func(h *holder) bool { return h.refused != "" }, quotes: []int{http.StatusUnprocessableEntity}, body: func(h *holder) string { return h.refused }},
}...)

// listReads are of all objects of a resource in the suite's namespace.
var listReads = append(named("list", formats), []read{
	{name: "list-metadata", accept: asMetas},
	{name: "list-metadata-protobuf", accept: "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io, " + asMetas},
	{name: "list-pages", query: "limit=1", pages: true},
	{name: "list-all-namespaces", path: func(p string) string {
		before, after, _ := strings.Cut(p, "/namespaces/")
		_, last, _ := strings.Cut(after, "/")
		return before + "/" + last
	}, query: "fieldSelector=metadata.namespace%3D{namespace}"},
	{name: "list-trailing-slash", path: suffix("/")},
	{name: "watch", query: "watch=1&timeoutSeconds=1&resourceVersion=0", stream: true},
	{name: "watch-true", query: "watch=true&timeoutSeconds=1&resourceVersion=0&allowWatchBookmarks=true", stream: true},
	{name: "watch-list", query: "watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", stream: true},
	{name: "watch-legacy-path", path: legacyWatch, query: "timeoutSeconds=1&resourceVersion=0", stream: true},
	{name: "watch-stream-type", accept: "application/json;stream=watch", query: "watch=1&timeoutSeconds=1&resourceVersion=0", stream: true},
	{name: "watch-yaml", accept: "application/yaml", query: "watch=1&timeoutSeconds=1&resourceVersion=0", stream: true},
	{name: "watch-protobuf", accept: "application/vnd.kubernetes.protobuf;stream=watch", query: "watch=1&timeoutSeconds=1&resourceVersion=0", stream: true},
	{name: "watch-protobuf-or-json", accept: "application/vnd.kubernetes.protobuf;stream=watch, application/json", query: "watch=1&timeoutSeconds=1&resourceVersion=0", stream: true},
	{name: "watch-cbor", accept: "application/cbor-seq, application/json;q=0.1", query: "watch=1&timeoutSeconds=1&resourceVersion=0", stream: true},
	{name: "watch-table", accept: asTable, query: "watch=1&timeoutSeconds=1&resourceVersion=0&includeObject=Object", stream: true},
	{name: "watch-metadata", accept: asMeta, query: "watch=1&timeoutSeconds=1&resourceVersion=0", stream: true},
	{name: "watch-gzip-http1", http1: true, header: [][2]string{{"Accept-Encoding", "gzip"}}, query: "watch=1&timeoutSeconds=1&resourceVersion=0", stream: true},
	{name: "write-delete-collection", method: http.MethodDelete, query: "dryRun=All&propagationPolicy=Foreground"},
}...)

func named(prefix string, reads []read) []read {
	all := make([]read, len(reads))
	for i, r := range reads {
		r.name = prefix + "-" + r.name
		all[i] = r
	}
	return all
}

func always(body string) func(*holder) string { return func(*holder) string { return body } }

func suffix(s string) func(string) string { return func(p string) string { return p + s } }

func only(gvrs ...schema.GroupVersionResource) func(*holder) bool {
	return func(h *holder) bool {
		for _, g := range gvrs {
			if h.gvr == g {
				return true
			}
		}
		return false
	}
}

func not(gvrs ...schema.GroupVersionResource) func(*holder) bool {
	is := only(gvrs...)
	return func(h *holder) bool { return !is(h) }
}

func inNamespace(h *holder) bool { return h.namespace() != "" && h.namespace() != "kube-system" }

// legacyWatch is the path that watched before ?watch did, and still does.
func legacyWatch(p string) string {
	parts := strings.SplitN(p, "/", 5) // "", api, v1, … or "", apis, group, version, …
	at := 3
	if parts[1] == "apis" {
		at = 4
	}
	return strings.Join(parts[:at], "/") + "/watch/" + strings.Join(parts[at:], "/")
}

// escapeAll writes every byte as an escape.
func escapeAll(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		b.WriteString("%" + strconv.FormatUint(uint64(c), 16))
	}
	return b.String()
}

func applied(h *holder, fields map[string]any) string {
	o := map[string]any{"apiVersion": h.object["apiVersion"], "kind": h.object["kind"], "metadata": map[string]any{"name": h.name()}}
	if h.namespace() != "" {
		o["metadata"].(map[string]any)["namespace"] = h.namespace()
	}
	for k, v := range fields {
		o[k] = v
	}
	return compact(o)
}

// conflicting wants what another manager has set.
func conflicting(h *holder) string {
	fields := map[string]any{}
	for _, f := range []string{"data", "binaryData"} {
		if m, ok := h.object[f].(map[string]any); ok {
			other := map[string]any{}
			for k := range m {
				other[k] = "b3RoZXI="
			}
			fields[f] = other
		}
	}
	return applied(h, fields)
}

// objectPath is where a resource, or one object of it, is.
func objectPath(gvr schema.GroupVersionResource, namespace, name string) string {
	p := "/apis/" + gvr.Group + "/" + gvr.Version
	if gvr.Group == "" {
		p = "/api/" + gvr.Version
	}
	if namespace != "" {
		p += "/namespaces/" + namespace
	}
	p += "/" + gvr.Resource
	if name != "" {
		p += "/" + name
	}
	return p
}

// request is r of h, which is at p.
func (r *read) request(h *holder, p string) request {
	if r.path != nil {
		p = r.path(p)
	}
	if r.query != "" {
		p += "?" + strings.NewReplacer("{name}", h.name(), "{namespace}", h.namespace()).Replace(r.query)
	}
	q := request{method: r.method, path: p, header: http.Header{}, contentType: r.contentType, http1: r.http1, stream: r.stream}
	if q.method == "" {
		q.method = http.MethodGet
	}
	switch r.accept {
	case "":
		q.header.Set("Accept", "application/json")
	case none:
	default:
		q.header.Set("Accept", r.accept)
	}
	for _, h := range r.header {
		q.header[h[0]] = append(q.header[h[0]], h[1])
	}
	if r.body != nil {
		q.body = r.body(h)
	}
	return q
}

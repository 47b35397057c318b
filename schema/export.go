package schema

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// File is one of an export.
type File struct {
	Name string
	Data []byte
	// Script says that it is to be run.
	Script bool
}

// Exported is a run's changes as files.
type Exported struct {
	Files []File
	// Steps is how many changes the script repeats, Left how many it can't: it says
	// which and why.
	Steps, Left int
}

// Export gives what events changed, in their order, as a shell script for kubectl and
// the manifests that it needs: run against another cluster, they make the changes
// there. Requests that changed nothing (reads, dry runs, what was refused) are not in
// it. masked reports whether a text has a mark in it: what stands there the audit
// trail doesn't know, so the script says so.
func Export(run string, events []Event, masked func(string) bool) *Exported {
	x := &exporter{masked: masked}
	x.printf("#!/bin/sh\n# What run %s changed, in the order it did; made by tipstaff runs export.\n", oneLine(run))
	x.printf("# Usage: KUBECONFIG=of-the-other-cluster sh run.sh\n#\n")
	x.printf("# Each change of an object is made as it ended: what the API server answered, without what it\n")
	x.printf("# fills in itself. Namespaces and what the run found there must be in the other cluster.\nset -eu\ncd \"$(dirname \"$0\")\"\n")
	for i := range events {
		if ev := &events[i]; ev.changed() {
			x.step(ev)
		}
	}
	x.printf("\n# %d changes repeated, %d left out.\n", x.out.Steps, x.out.Left)
	x.out.Files = append([]File{{Name: "run.sh", Data: []byte(x.script.String()), Script: true}}, x.out.Files...)
	return &x.out
}

// streams are the subresources through which anything may pass.
var streams = []string{"exec", "attach", "portforward", "proxy"}

// changed reports whether e changed something, or may have.
func (e *Event) changed() bool {
	switch {
	case e.Resource == "" || e.DryRun:
		return false
	case slices.Contains(streams, e.Subresource):
		return e.Code > 0 && e.Code < 400
	}
	return slices.Contains([]string{"create", "update", "patch", "delete", "deletecollection"}, e.Verb) && e.Code >= 200 && e.Code < 300
}

type exporter struct {
	masked func(string) bool
	script strings.Builder
	out    Exported
}

func (x *exporter) printf(format string, args ...any) { fmt.Fprintf(&x.script, format, args...) }

// step writes one change.
func (x *exporter) step(ev *Event) {
	x.printf("\n# %s %s %s", ev.Received.UTC().Format(time.DateTime), oneLine(ev.Verb), oneLine(ev.target()))
	if text := (&line{Event: *ev}).outcome(); text != "" {
		x.printf(" %s", oneLine(text))
	}
	x.printf("\n")
	command, why := x.command(ev)
	if why != "" {
		x.out.Left++
		x.printf("# LEFT OUT: %s\n", why)
		return
	}
	x.out.Steps++
	x.printf("%s\n", command)
}

// command gives what repeats ev, or why nothing does.
func (x *exporter) command(ev *Event) (command, why string) {
	kind := ev.Resource
	if ev.APIGroup != "" {
		kind += "." + ev.APIGroup
	}
	in := ""
	if ev.Namespace != "" && ev.Resource != "namespaces" {
		in = " -n " + quoted(ev.Namespace)
	}
	switch {
	case slices.Contains(streams, ev.Subresource):
		return "", "what went through it is no change of an object"
	case ev.Verb == "delete" && ev.Subresource == "":
		return "kubectl delete" + in + cascade(ev.RequestObject) + " --wait=false " + quoted(kind) + " " + quoted(ev.Name), ""
	case ev.Verb == "deletecollection":
		return x.deleteCollection(ev, in, kind)
	case ev.Verb == "delete":
		return "", "kubectl deletes no subresource"
	case ev.Subresource != "" && ev.Subresource != "status" && ev.Subresource != "scale":
		return x.raw(ev)
	}
	// An update or a patch is the object that came of it: how a patch was meant
	// (merge, strategic, apply) no event says.
	body := ev.ResponseObject
	if ev.Verb == "create" {
		body = ev.RequestObject
	}
	if body == "" || ev.Truncated {
		return "", "the audit trail has not its whole object"
	}
	object, why := bare(body, ev)
	if why != "" {
		return "", why
	}
	if ev.Subresource == "scale" { // kubectl can't replace one
		spec, _ := object["spec"].(map[string]any)
		n, _ := spec["replicas"].(float64)
		return fmt.Sprintf("kubectl scale%s --replicas=%d %s", in, int64(n), quoted(kind+"/"+ev.Name)), ""
	}
	file, note := x.file(ev, object)
	switch {
	case ev.Verb == "create":
		return note + "kubectl create" + in + " -f " + file, ""
	case ev.Subresource != "":
		return note + "kubectl replace" + in + " --subresource=" + quoted(ev.Subresource) + " -f " + file, ""
	case ev.Code == 201: // an apply that made it
		return note + "kubectl create" + in + " -f " + file, ""
	default:
		return note + "kubectl replace" + in + " -f " + file, ""
	}
}

// raw posts what was posted, as evictions and bindings are.
func (x *exporter) raw(ev *Event) (command, why string) {
	path, _, _ := strings.Cut(ev.URI, "?")
	switch {
	case ev.Resource == "serviceaccounts" && ev.Subresource == "token":
		return "", "a token is made for whoever asks"
	case ev.Verb != "create" || ev.RequestObject == "" || ev.Truncated || !strings.HasPrefix(path, "/api"):
		return "", "kubectl has no command for it"
	}
	var object map[string]any
	if err := json.Unmarshal([]byte(ev.RequestObject), &object); err != nil {
		return "", "its object can't be read"
	}
	file, note := x.file(ev, object)
	return note + "kubectl create --raw " + quoted(path) + " -f " + file, ""
}

func (x *exporter) deleteCollection(ev *Event, in, kind string) (command, why string) {
	_, query, _ := strings.Cut(ev.URI, "?")
	values, err := url.ParseQuery(query)
	if err != nil || x.masked(ev.URI) {
		return "", "its selector is masked"
	}
	which := " --all"
	if l, f := values.Get("labelSelector"), values.Get("fieldSelector"); l != "" || f != "" {
		which = ""
		if l != "" {
			which += " -l " + quoted(l)
		}
		if f != "" {
			which += " --field-selector " + quoted(f)
		}
	}
	return "kubectl delete" + in + cascade(ev.RequestObject) + " --wait=false " + quoted(kind) + which, ""
}

// cascade is how dependents were to be deleted, as kubectl is told.
func cascade(options string) string {
	var o struct {
		PropagationPolicy string `json:"propagationPolicy"`
	}
	if options == "" || json.Unmarshal([]byte(options), &o) != nil {
		return ""
	}
	switch o.PropagationPolicy {
	case "Orphan", "Foreground", "Background":
		return " --cascade=" + strings.ToLower(o.PropagationPolicy)
	}
	return ""
}

// bare is an object without what the API server fills in by itself.
func bare(body string, ev *Event) (object map[string]any, why string) {
	if err := json.Unmarshal([]byte(body), &object); err != nil {
		return nil, "its object can't be read"
	}
	if object["kind"] == "Status" || object["kind"] == nil {
		return nil, "the answer was not the object"
	}
	meta, _ := object["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
		object["metadata"] = meta
	}
	for _, field := range []string{"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"} {
		delete(meta, field)
	}
	if ev.Name != "" {
		meta["name"] = ev.Name
		delete(meta, "generateName")
	}
	if ev.Subresource != "status" {
		delete(object, "status")
	}
	if spec, _ := object["spec"].(map[string]any); spec != nil && ev.Resource == "services" && ev.APIGroup == "" && spec["clusterIP"] != "None" {
		delete(spec, "clusterIP")
		delete(spec, "clusterIPs")
	}
	return object, ""
}

// file writes an object beside the script, and says so where it has marks.
func (x *exporter) file(ev *Event, object map[string]any) (name, note string) {
	text, err := yaml.Marshal(object)
	if err != nil { // of what was read from JSON: never
		text = nil
	}
	name = fmt.Sprintf("%03d-%s-%s-%s.yaml", len(x.out.Files)+1, fileSafe(ev.Verb), fileSafe(ev.Resource), fileSafe(ev.Name))
	x.out.Files = append(x.out.Files, File{Name: name, Data: text})
	if x.masked(string(text)) {
		note = "# MASKED: put the real values in " + name + " where marks stand; the audit trail has none of them.\n"
	}
	return quoted(name), note
}

// fileSafe is s as part of a file's name.
func fileSafe(s string) string {
	const most = 60
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '.' {
			return r
		}
		return '_'
	}, strings.ToLower(s))
	return strings.Trim(s[:min(len(s), most)], ".")
}

// quoted is s as one word of a POSIX shell's.
func quoted(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./") == "" && s[0] != '-' {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// oneLine is s without what could end a comment's line or fool a terminal.
func oneLine(s string) string {
	const most = 500
	r := []rune(clean(s))
	if len(r) > most {
		return string(r[:most]) + "…"
	}
	return string(r)
}

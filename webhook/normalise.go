package webhook

import (
	"reflect"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// serviceAccountVolume starts the name of the volume that the ServiceAccount
// admission plugin adds to each pod; a random end makes it new at each try
// (kubernetes v1.37, plugin/pkg/admission/serviceaccount).
const serviceAccountVolume = "kube-api-access-"

// normalised gives copies of the new and the old object without what changes
// from one try of the same request to the next and carries no meaning:
// managedFields, resourceVersion, generation, creationTimestamp, a status that
// the request doesn't change and, in an object about to be created, its fresh
// uid, the server's random part of names and, of a Service, what it allocates. The
// old object keeps its uid: one that was deleted and made again is another object.
func normalised(req *admissionv1.AdmissionRequest, object, oldObject map[string]any) (newObj, oldObj map[string]any) {
	newObj, oldObj = runtime.DeepCopyJSON(object), runtime.DeepCopyJSON(oldObject)
	if req.Resource.Group == "" && req.Resource.Resource == "services" && req.SubResource == "" && newObj != nil {
		normaliseService(newObj, oldObj) // reads managedFields
	}
	for _, obj := range []map[string]any{newObj, oldObj} {
		if obj == nil {
			continue
		}
		if meta, ok := obj["metadata"].(map[string]any); ok {
			for _, key := range []string{"managedFields", "resourceVersion", "generation", "creationTimestamp", "selfLink"} {
				delete(meta, key)
			}
		}
	}
	if req.SubResource == "scale" {
		normaliseScale(newObj)
		normaliseScale(oldObj)
	}
	if statusStands(req, newObj, oldObj) {
		delete(newObj, "status")
		delete(oldObj, "status")
	}
	if req.Operation == admissionv1.Create && newObj != nil {
		normaliseNew(req, newObj)
	}
	return newObj, oldObj
}

// normaliseScale says zero replicas, which the JSON of a Scale leaves out
// (autoscaling/v1, omitempty), as people read it.
func normaliseScale(scale map[string]any) {
	if spec, ok := scale["spec"].(map[string]any); ok && spec["replicas"] == nil {
		spec["replicas"] = int64(0)
	}
}

// statusStands reports whether the request leaves status alone, which moves by
// itself while people decide. Where the API server keeps status for its
// subresource, it has put the old one back by now; a kind without that
// subresource, or approval of a CSR, writes it: then it is content like any other.
func statusStands(req *admissionv1.AdmissionRequest, newObj, oldObj map[string]any) bool {
	switch req.Operation {
	case admissionv1.Delete:
		return true
	case admissionv1.Update:
		return req.SubResource != "status" && reflect.DeepEqual(newObj["status"], oldObj["status"])
	}
	return false
}

func normaliseNew(req *admissionv1.AdmissionRequest, obj map[string]any) {
	if meta, ok := obj["metadata"].(map[string]any); ok {
		// A binding's uid is its client's: the pod that it means.
		binding := req.Resource.Group == "" && req.Resource.Resource == "bindings"
		if uid, ok := meta["uid"].(string); ok && uid != "" && req.SubResource == "" && !binding {
			delete(meta, "uid")
			// A Job's selector and labels carry its own uid.
			replaceString(obj, uid, "(this object's uid)")
		}
		if drawnName(req, obj) != "" {
			delete(meta, "name")
		}
	}
	if req.Resource.Group == "" && req.Resource.Resource == "pods" && req.SubResource == "" {
		normaliseVolumes(obj)
	}
}

// The API server makes a name from generateName, cut to 58 bytes, and five of
// these characters, and tells it to webhooks as if it had been asked for
// (apiserver v0.37, pkg/storage/names/generate.go, pkg/registry/rest/create.go).
const (
	maxGenerateBytes = 58
	drawnCharacters  = "bcdfghjklmnpqrstvwxz2456789"
	drawnBytes       = 5
)

// drawnName is generateName and a star where the API server drew the end of the
// name of an object about to be created, new at each try; empty where the name
// was asked for. One that was asked for and looks drawn counts as drawn: what
// people are shown, and sign, is the star.
func drawnName(req *admissionv1.AdmissionRequest, object map[string]any) string {
	meta, _ := object["metadata"].(map[string]any)
	generate := stringOf(meta["generateName"])
	if req.Operation != admissionv1.Create || req.SubResource != "" || generate == "" {
		return ""
	}
	name := req.Name
	if name == "" {
		return generate + "*"
	}
	end, ok := strings.CutPrefix(name, generate[:min(len(generate), maxGenerateBytes)])
	if !ok || len(end) != drawnBytes || strings.Trim(end, drawnCharacters) != "" {
		return ""
	}
	return generate + "*"
}

// normaliseVolumes renames the volume that the ServiceAccount admission plugin
// has added to a pod, and the mounts of it. That loses nothing only where it is
// the one volume of such a name and nothing but mounts names it, so where there
// is more, a client has chosen that name, and all of it is content.
func normaliseVolumes(pod map[string]any) {
	spec, _ := pod["spec"].(map[string]any)
	volumes, _ := spec["volumes"].([]any)
	var drawn map[string]any
	for _, v := range volumes {
		volume, _ := v.(map[string]any)
		end, ok := strings.CutPrefix(stringOf(volume["name"]), serviceAccountVolume)
		if !ok {
			continue
		}
		if drawn != nil || len(end) != drawnBytes || strings.Trim(end, drawnCharacters) != "" {
			return
		}
		drawn = volume
	}
	if drawn == nil {
		return
	}
	name := stringOf(drawn["name"])
	named := []map[string]any{drawn}
	for _, list := range []string{"containers", "initContainers", "ephemeralContainers"} {
		containers, _ := spec[list].([]any)
		for _, c := range containers {
			container, _ := c.(map[string]any)
			mounts, _ := container["volumeMounts"].([]any)
			for _, m := range mounts {
				if mount, _ := m.(map[string]any); stringOf(mount["name"]) == name {
					named = append(named, mount)
				}
			}
		}
	}
	if mentions(pod, name) != len(named) {
		return
	}
	for _, n := range named {
		n["name"] = serviceAccountVolume + "*"
	}
}

// mentions counts the strings in v that hold text, names of members included.
func mentions(v any, text string) (n int) {
	switch v := v.(type) {
	case string:
		if strings.Contains(v, text) {
			n++
		}
	case map[string]any:
		for k, e := range v {
			n += mentions(k, text) + mentions(e, text)
		}
	case []any:
		for _, e := range v {
			n += mentions(e, text)
		}
	}
	return n
}

// normaliseService drops what the API server has allocated for a Service, new
// at each try: its cluster addresses and node ports (kubernetes v1.37,
// pkg/registry/core/service/storage/alloc.go). What the client chose stands in
// managedFields, which the API server computes from the object as it was sent;
// where those are missing, everything counts as chosen. What the old object had
// already stays.
func normaliseService(svc, was map[string]any) {
	chosen, ok := chosenFields(svc)
	spec, _ := svc["spec"].(map[string]any)
	if !ok || spec == nil {
		return
	}
	old, _ := was["spec"].(map[string]any)
	if !chosen["f:clusterIP"] && !chosen["f:clusterIPs"] && stringOf(spec["clusterIP"]) != "None" {
		for _, key := range []string{"clusterIP", "clusterIPs"} {
			if old[key] == nil {
				delete(spec, key)
			}
		}
	}
	if !chosen["f:healthCheckNodePort"] && old["healthCheckNodePort"] == nil {
		delete(spec, "healthCheckNodePort")
	}
	if chosen["f:nodePort"] {
		return
	}
	had := map[any]bool{}
	oldPorts, _ := old["ports"].([]any)
	for _, p := range oldPorts {
		if port, ok := p.(map[string]any); ok && port["nodePort"] != nil {
			had[port["nodePort"]] = true
		}
	}
	ports, _ := spec["ports"].([]any)
	for _, p := range ports {
		if port, ok := p.(map[string]any); ok && port["nodePort"] != nil && !had[port["nodePort"]] {
			delete(port, "nodePort")
		}
	}
}

// chosenFields are the names that stand anywhere below spec in an object's
// managedFields; false where there are none to read.
func chosenFields(obj map[string]any) (map[string]bool, bool) {
	meta, _ := obj["metadata"].(map[string]any)
	entries, _ := meta["managedFields"].([]any)
	chosen := map[string]bool{}
	for _, e := range entries {
		entry, _ := e.(map[string]any)
		fields, ok := entry["fieldsV1"].(map[string]any)
		if !ok {
			return nil, false
		}
		if spec, ok := fields["f:spec"].(map[string]any); ok {
			keysBelow(spec, chosen)
		}
	}
	return chosen, len(chosen) > 0
}

func keysBelow(m map[string]any, into map[string]bool) {
	for k, v := range m {
		into[k] = true
		if below, ok := v.(map[string]any); ok {
			keysBelow(below, into)
		}
	}
}

func stringOf(v any) string {
	s, _ := v.(string)
	return s
}

// replaceString replaces each string value equal to from, in place.
func replaceString(v any, from, to string) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if s, ok := e.(string); ok && s == from {
				v[k] = to
			} else {
				replaceString(e, from, to)
			}
		}
	case []any:
		for i, e := range v {
			if s, ok := e.(string); ok && s == from {
				v[i] = to
			} else {
				replaceString(e, from, to)
			}
		}
	}
}

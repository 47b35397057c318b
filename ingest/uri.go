package ingest

import (
	"net/url"
	"strings"
)

// plainParameters are the query parameters whose values are the API's own
// vocabulary. Any other's value is masked: exec's command, a proxied service's
// query, and whatever a client makes up.
var plainParameters = map[string]bool{
	"allowWatchBookmarks": true, "container": true, "dryRun": true, "fieldManager": true, "fieldSelector": true,
	"fieldValidation": true, "follow": true, "force": true, "gracePeriodSeconds": true, "labelSelector": true,
	"limit": true, "limitBytes": true, "orphanDependents": true, "pretty": true, "previous": true,
	"propagationPolicy": true, "resourceVersion": true, "resourceVersionMatch": true, "sendInitialEvents": true,
	"sinceSeconds": true, "sinceTime": true, "stderr": true, "stdin": true, "stdout": true, "tailLines": true,
	"timeout": true, "timeoutSeconds": true, "timestamps": true, "tty": true, "watch": true,
}

// proxiedResources are those whose proxy subresource has a path of somebody
// else's making behind it.
var proxiedResources = map[string]bool{"pods": true, "services": true, "nodes": true}

// maskURI masks what in a request URI may quote a secret. text makes the mark.
func maskURI(uri string, ref *objectRef, text func(string) string) string {
	path, query, hasQuery := strings.Cut(uri, "?")
	if ref != nil && ref.Subresource == "proxy" && proxiedResources[ref.Resource] {
		if head, rest, found := strings.Cut(path, "/proxy/"); found && rest != "" {
			path = head + "/proxy/" + text(rest)
		}
	}
	if !hasQuery {
		return path
	}
	parts := strings.Split(query, "&")
	for i, part := range parts {
		name, value, _ := strings.Cut(part, "=")
		plain, err := url.QueryUnescape(value)
		switch {
		case err != nil:
			parts[i] = text(part)
		case plainParameters[name]:
		case value != "" && plainName(name):
			parts[i] = name + "=" + text(plain)
		default:
			parts[i] = text(part)
		}
	}
	return path + "?" + strings.Join(parts, "&")
}

// plainName tells a parameter's name from a value that stands without one.
func plainName(name string) bool {
	if name == "" || len(name) > 32 {
		return false
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
			return false
		}
	}
	return true
}

// isDryRun reports whether the request only tries.
func isDryRun(uri string) bool {
	_, query, _ := strings.Cut(uri, "?")
	values, err := url.ParseQuery(query)
	return err == nil && values.Has("dryRun") && values.Get("dryRun") != ""
}

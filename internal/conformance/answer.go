package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxReasonBytes bounds what the report quotes of an answer.
const maxReasonBytes = 200

// sortedKeys are the names of m in their order.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// why says in one line why an answer showed nothing.
func (r *run) why(a answer) string {
	var st metav1.Status
	if json.Unmarshal(a.body, &st) != nil || st.Kind != "Status" || st.Status == metav1.StatusSuccess {
		if a.code >= http.StatusOK && a.code < http.StatusMultipleChoices {
			return fmt.Sprintf("%d, without the object", a.code)
		}
		return fmt.Sprintf("%d %s", a.code, http.StatusText(a.code))
	}
	message := strings.Join(strings.Fields(st.Message), " ")
	if len(message) > maxReasonBytes {
		message = strings.ToValidUTF8(message[:maxReasonBytes], "") + "…"
	}
	word := string(st.Reason)
	if a.code == http.StatusTooManyRequests {
		word = "held"
	}
	return r.scrub(strings.TrimSuffix(fmt.Sprintf("%d %s: %s", a.code, word, message), ": "))
}

// scrub keeps planted values out of the report.
func (r *run) scrub(text string) string {
	if len(r.scanner.Scan([]byte(text))) > 0 {
		return "(a text that holds a planted value)"
	}
	return text
}

// locate gives for each value the path of the first field that shows it, where
// the body is JSON, be it one value or a stream of them.
func (r *run) locate(body []byte) map[int]string {
	where := map[int]string{}
	d := json.NewDecoder(bytes.NewReader(body))
	for {
		var v any
		if d.Decode(&v) != nil {
			return where
		}
		r.walk(v, "", where)
	}
}

func (r *run) walk(v any, at string, where map[int]string) {
	note := func(s, at string) {
		if len(s) < windowBytes {
			return
		}
		for _, hit := range r.scanner.Scan([]byte(s)) {
			if where[hit.Value] == "" {
				where[hit.Value] = at
			}
		}
	}
	switch v := v.(type) {
	case string:
		note(v, strings.TrimPrefix(at, "."))
	case []any:
		for i, e := range v {
			r.walk(e, at+"["+strconv.Itoa(i)+"]", where)
		}
	case map[string]any:
		for _, k := range sortedKeys(v) {
			name := "." + r.scrub(k)
			if strings.ContainsAny(k, ".:/\"{ ") {
				name = "[" + strconv.Quote(r.scrub(k)) + "]"
			}
			note(k, strings.TrimPrefix(at, ".")+" (the name of a field)")
			r.walk(v[k], at+name, where)
		}
	}
}

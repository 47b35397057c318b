package e2e

import (
	"context"
	"strings"
	"testing"
	"time"
)

// reads lets an agent read what it changes, through the proxy, and change it.
func (a agent) mayChange(t *testing.T, resource string) {
	t.Helper()
	grant(t, a.group(), "--verb=create,update,patch", "--resource="+resource)
}

func TestI8_NoMaskIsWrittenBack(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.mayChange(t, "secrets")
	ns := namespace(t)
	must(t, shared.Admin, "create", "secret", "generic", "real", "-n", ns, "--from-literal=key=the-real-value", "--from-literal=pin=1234")
	read := must(t, a.proxied, "get", "secret", "real", "-n", ns, "-o", "json")
	if !strings.Contains(read, "dGlwc3RhZmYtbWFza2Vk") {
		t.Fatalf("not masked: %s", read)
	}
	// Elsewhere than where it was read, and on the direct path.
	refused(t, "data.key holds a mask", a.direct, "replace", "-f", writeFile(t, read))
	refused(t, "holds a mask", a.direct, "create", "configmap", "copy", "-n", ns, "--from-literal=key=tipstaff-masked-0123456789abcdef0123")
	refused(t, "data.other holds a mark", a.proxied, "replace", "-f", writeFile(t, strings.Replace(read, `"key":`, `"other":`, 1)))
	refused(t, "stringData.key holds a mark", a.proxied, "create", "-f", writeFile(t, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"copy","namespace":"`+ns+`"},"stringData":{"key":"tipstaff-masked-0123456789abcdef0123"}}`))
	refused(t, "holds a mark", a.proxied, "patch", "secret", "real", "-n", ns, "--type=json", "-p", `[{"op":"copy","from":"/data/key","path":"/metadata/annotations"}]`)
	refused(t, "The request is invalid", a.proxied, "patch", "secret", "real", "-n", ns, "--type=json", "-p", `[{"op":"test","path":"/data/pin","value":"MTIzNA=="}]`)
	refused(t, "conflict", a.proxied, "apply", "--server-side", "-f", writeFile(t, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"real","namespace":"`+ns+`"},"stringData":{"pin":"1234"}}`))
	a.values(t, ns, "the-real-value1234")
}

// values checks what the Secret really holds.
func (a agent) values(t *testing.T, ns, want string) {
	t.Helper()
	if got := must(t, shared.Admin, "get", "secret", "real", "-n", ns, "-o", "go-template={{base64decode .data.key}}{{base64decode .data.pin}}"); got != want {
		t.Errorf("the real values are %q, want %q", got, want)
	}
}

// A mark that comes back where it was read is the value that it stands for,
// whatever command sends it.
func TestI8_MarksComeBackAsTheRealValue(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.mayChange(t, "secrets")
	ns := namespace(t)
	must(t, shared.Admin, "create", "secret", "generic", "real", "-n", ns, "--from-literal=key=the-real-value", "--from-literal=pin=1234")
	secret := []string{"secret", "real", "-n", ns}
	read := func(format string) string {
		return must(t, a.proxied, append([]string{"get", "-o", format}, secret...)...)
	}
	label := func(object, value string) string {
		return strings.Replace(object, "labels:", "labels:\n    "+value+": done", 1)
	}
	must(t, shared.Admin, "label", "secret", "real", "-n", ns, "a=b")
	for _, step := range []struct {
		name string
		args func() []string
	}{
		{"replace", func() []string { return []string{"replace", "-f", writeFile(t, label(read("yaml"), "replace"))} }},
		{"server-side", func() []string {
			return []string{"apply", "--server-side", "--force-conflicts", "-f", writeFile(t, withoutManaged(label(read("yaml"), "server-side")))}
		}},
		{"patch", func() []string {
			key := must(t, a.proxied, append([]string{"get", "-o", "jsonpath={.data.key}"}, secret...)...)
			return append([]string{"patch", "--type=merge", "-p", `{"metadata":{"labels":{"patch":"done"}},"data":{"key":"` + key + `"}}`}, secret...)
		}},
		{"apply", func() []string { return []string{"apply", "-f", writeFile(t, label(read("yaml"), "apply"))} }},
		{"apply-again", func() []string { return []string{"apply", "-f", writeFile(t, label(read("yaml"), "apply-again"))} }},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := shared.StartKubectl(ctx, a.proxied, step.args()...)
		ap, err := shared.WaitForApproval(ctx, a.run, "real", cmd)
		if err != nil {
			cancel()
			t.Fatalf("%s: %v", step.name, err)
		}
		leaks(t, "the approval of "+step.name, must(t, shared.Alice, "get", "approval", ap.Name, "-o", "yaml"), "the-real-value")
		approve(t, ap.Name)
		r := cmd.Wait()
		cancel()
		if !r.OK() {
			t.Fatalf("%s: %s", step.name, r.Output())
		}
		a.values(t, ns, "the-real-value1234")
		if got := must(t, shared.Admin, append([]string{"get", "-o", "jsonpath={.metadata.labels." + step.name + "}"}, secret...)...); got != "done" {
			t.Errorf("after %s the label is %q", step.name, got)
		}
		leaks(t, "the Secret through the proxy", read("yaml"), "the-real-value")
	}
	applied := must(t, shared.Admin, append([]string{"get", "-o", `jsonpath={.metadata.annotations.kubectl\.kubernetes\.io/last-applied-configuration}`}, secret...)...)
	if strings.Contains(applied, "tipstaff-masked") || strings.Contains(applied, "dGlwc3RhZmYtbWFza2Vk") {
		t.Errorf("last-applied holds a mark: %s", applied)
	}
}

// withoutManaged removes what may not stand in an applied configuration.
func withoutManaged(object string) string {
	var kept []string
	for line := range strings.Lines(object) {
		if !strings.HasPrefix(line, "  resourceVersion:") && !strings.HasPrefix(line, "  uid:") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

package schema

import (
	"encoding/binary"
	"maps"
	"slices"
	"time"
)

// AppendCanonical appends e as bytes that are the same for the same row, whoever
// reads it from the store, and other bytes for any other row. A field that is empty
// takes none, so that a column of a later schema leaves the bytes of older rows as
// they are. Times are whole microseconds, as the store keeps them.
func (e *Event) AppendCanonical(b []byte) []byte {
	c := canonical{b}
	c.text("cluster", e.Cluster)
	c.text("audit_id", e.AuditID)
	c.text("stage", e.Stage)
	c.text("level", e.Level)
	c.time("received", e.Received)
	c.time("stage_time", e.StageTime)
	c.text("verb", e.Verb)
	c.text("user", e.User)
	c.texts("groups", e.Groups)
	c.text("impersonator", e.Impersonator)
	c.yes("proxied", e.Proxied)
	c.text("issuer", e.Issuer)
	c.text("run", e.Run)
	c.text("run_key", e.RunKey)
	c.text("model", e.Model)
	c.text("owner", e.Owner)
	c.text("task", e.Task)
	c.text("profile", e.Profile)
	c.text("credential_id", e.CredentialID)
	c.texts("source_ips", e.SourceIPs)
	c.text("user_agent", e.UserAgent)
	c.text("api_group", e.APIGroup)
	c.text("api_version", e.APIVersion)
	c.text("resource", e.Resource)
	c.text("subresource", e.Subresource)
	c.text("namespace", e.Namespace)
	c.text("name", e.Name)
	c.text("uri", e.URI)
	c.yes("dry_run", e.DryRun)
	c.number("code", int64(e.Code))
	c.text("reason", e.Reason)
	c.text("message", e.Message)
	c.text("verdict", e.Verdict)
	c.text("rule", e.Rule)
	c.text("approval", e.Approval)
	c.texts("approvers", e.Approvers)
	c.text("decision_reason", e.DecisionReason)
	c.yes("truncated", e.Truncated)
	c.text("request_object", e.RequestObject)
	c.text("response_object", e.ResponseObject)
	c.pairs("annotations", e.Annotations)
	c.text("source", e.Source)
	return c.b
}

// canonical writes fields as their name and their value, each with its length
// before it.
type canonical struct{ b []byte }

func (c *canonical) put(s string) {
	c.b = binary.AppendUvarint(c.b, uint64(len(s)))
	c.b = append(c.b, s...)
}

func (c *canonical) text(name, v string) {
	if v != "" {
		c.put(name)
		c.put(v)
	}
}

func (c *canonical) texts(name string, v []string) {
	if len(v) > 0 {
		c.put(name)
		c.b = binary.AppendUvarint(c.b, uint64(len(v)))
		for _, s := range v {
			c.put(s)
		}
	}
}

func (c *canonical) pairs(name string, v map[string]string) {
	if len(v) > 0 {
		c.put(name)
		c.b = binary.AppendUvarint(c.b, uint64(len(v)))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			c.put(k)
			c.put(v[k])
		}
	}
}

func (c *canonical) number(name string, v int64) {
	if v != 0 {
		c.put(name)
		c.b = binary.AppendVarint(c.b, v)
	}
}

func (c *canonical) time(name string, v time.Time) { c.number(name, v.UnixMicro()) }

func (c *canonical) yes(name string, v bool) {
	if v {
		c.number(name, 1)
	}
}

package ingest

import (
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
	"github.com/tipstaff-dev/tipstaff/schema"
)

// row gives ev, masked before, as the record that is stored.
func row(agents *clusteragents.Config, cluster string, ev *event) schema.Event {
	u := ev.effective()
	r := schema.Event{
		Cluster: cluster, AuditID: ev.AuditID, Stage: ev.Stage, Level: ev.Level,
		Received: ev.Received.UTC(), StageTime: ev.StageTime.UTC(), Verb: ev.Verb,
		User: u.Username, Groups: u.Groups, SourceIPs: ev.SourceIPs, UserAgent: ev.UserAgent,
		URI: ev.RequestURI, DryRun: isDryRun(ev.RequestURI),
		RequestObject: string(ev.RequestObject), ResponseObject: string(ev.ResponseObject),
		Annotations: ev.Annotations, Truncated: ev.Annotations[annotationTruncated] == "true",
	}
	if ev.ImpersonatedUser != nil {
		r.Impersonator = ev.User.Username
	}
	if agent, ok := ev.agentOf(agents); ok {
		r.Issuer, r.Run, r.Model, r.Owner, r.Task = agent.Issuer, agent.Run, agent.Model, agent.Owner, agent.Task
		r.Profile, r.CredentialID = agent.Profile, agent.CredentialID
		if agent.Run != "" {
			r.RunKey = string(agent.Key())
		}
		for _, g := range u.Groups {
			r.Proxied = r.Proxied || g == v1alpha1.GroupProxied
		}
	}
	if ref := ev.ObjectRef; ref != nil {
		r.APIGroup, r.APIVersion, r.Resource, r.Subresource = ref.APIGroup, ref.APIVersion, ref.Resource, ref.Subresource
		r.Namespace, r.Name = ref.Namespace, ref.Name
	}
	var st status
	if len(ev.ResponseStatus) > 0 && json.Unmarshal(ev.ResponseStatus, &st) == nil {
		if st.Code > 0 && st.Code < 1000 {
			r.Code = uint16(st.Code)
		}
		r.Reason, r.Message = st.Reason, st.Message
	}
	note := func(name string) string { return ev.Annotations[v1alpha1.WebhookName+"/"+name] }
	r.Verdict, r.Rule, r.Approval = note(v1alpha1.AnnotationVerdict), note(v1alpha1.AnnotationRule), note(v1alpha1.AnnotationApproval)
	r.DecisionReason = note(v1alpha1.AnnotationReason)
	for name := range strings.SplitSeq(note(v1alpha1.AnnotationApprovers), ",") {
		if name = strings.TrimSpace(name); name != "" {
			r.Approvers = append(r.Approvers, name)
		}
	}
	return r
}

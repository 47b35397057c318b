package schema

import "time"

// Event is one row of tipstaff.audit_events: one stage of one request.
type Event struct {
	Cluster string `json:"cluster" ch:"cluster"`
	AuditID string `json:"auditID" ch:"audit_id"`
	// Stage is the API server's: RequestReceived, ResponseStarted,
	// ResponseComplete or Panic.
	Stage string `json:"stage" ch:"stage"`
	Level string `json:"level,omitempty" ch:"level"`
	// Received is when the request came, StageTime when it reached the stage.
	Received  time.Time `json:"received" ch:"received"`
	StageTime time.Time `json:"stageTime" ch:"stage_time"`
	Verb      string    `json:"verb" ch:"verb"`

	// User is who acted: where somebody impersonated, the one impersonated.
	User   string   `json:"user" ch:"user"`
	Groups []string `json:"groups,omitempty" ch:"groups"`
	// Impersonator is who acted as User, empty where nobody did.
	Impersonator string `json:"impersonator,omitempty" ch:"impersonator"`
	// Proxied says that the request came through Tipstaff's proxy.
	Proxied bool `json:"proxied,omitempty" ch:"proxied"`
	// Issuer to CredentialID are an agent's identity, empty for everybody else.
	Issuer       string   `json:"issuer,omitempty" ch:"issuer"`
	Run          string   `json:"run,omitempty" ch:"run"`
	RunKey       string   `json:"runKey,omitempty" ch:"run_key"`
	Model        string   `json:"model,omitempty" ch:"model"`
	Owner        string   `json:"owner,omitempty" ch:"owner"`
	Task         string   `json:"task,omitempty" ch:"task"`
	Profile      string   `json:"profile,omitempty" ch:"profile"`
	CredentialID string   `json:"credentialID,omitempty" ch:"credential_id"`
	SourceIPs    []string `json:"sourceIPs,omitempty" ch:"source_ips"`
	UserAgent    string   `json:"userAgent,omitempty" ch:"user_agent"`

	APIGroup    string `json:"apiGroup,omitempty" ch:"api_group"`
	APIVersion  string `json:"apiVersion,omitempty" ch:"api_version"`
	Resource    string `json:"resource,omitempty" ch:"resource"`
	Subresource string `json:"subresource,omitempty" ch:"subresource"`
	Namespace   string `json:"namespace,omitempty" ch:"namespace"`
	Name        string `json:"name,omitempty" ch:"name"`
	URI         string `json:"uri,omitempty" ch:"uri"`
	DryRun      bool   `json:"dryRun,omitempty" ch:"dry_run"`

	Code    uint16 `json:"code,omitempty" ch:"code"`
	Reason  string `json:"reason,omitempty" ch:"reason"`
	Message string `json:"message,omitempty" ch:"message"`

	// Verdict is the admission webhook's: allowed, held, approved or denied;
	// empty where it was not asked.
	Verdict        string   `json:"verdict,omitempty" ch:"verdict"`
	Rule           string   `json:"rule,omitempty" ch:"rule"`
	Approval       string   `json:"approval,omitempty" ch:"approval"`
	Approvers      []string `json:"approvers,omitempty" ch:"approvers"`
	DecisionReason string   `json:"decisionReason,omitempty" ch:"decision_reason"`

	// Truncated says that a body is missing or cut.
	Truncated      bool              `json:"truncated,omitempty" ch:"truncated"`
	RequestObject  string            `json:"requestObject,omitempty" ch:"request_object"`
	ResponseObject string            `json:"responseObject,omitempty" ch:"response_object"`
	Annotations    map[string]string `json:"annotations,omitempty" ch:"annotations"`

	// Source is who says that the request was made: empty is the API server,
	// else SourceProxy.
	Source string `json:"source,omitempty" ch:"source"`
}

// SourceProxy is the source of events that Tipstaff's proxy wrote itself.
const SourceProxy = "proxy"

// Run is one run of one agent on one cluster, as its events tell it.
type Run struct {
	Cluster string    `json:"cluster" ch:"cluster"`
	Issuer  string    `json:"issuer" ch:"issuer"`
	Run     string    `json:"run" ch:"run"`
	RunKey  string    `json:"runKey" ch:"run_key"`
	User    string    `json:"user" ch:"user"`
	Model   string    `json:"model,omitempty" ch:"model"`
	Owner   string    `json:"owner,omitempty" ch:"owner"`
	Task    string    `json:"task,omitempty" ch:"task"`
	Profile string    `json:"profile,omitempty" ch:"profile"`
	First   time.Time `json:"first" ch:"first"`
	Last    time.Time `json:"last" ch:"last"`
	// Requests counts all, Changes those that were no read, Denied those that
	// the webhook refused for good.
	Requests uint64 `json:"requests" ch:"requests"`
	Changes  uint64 `json:"changes" ch:"changes"`
	Denied   uint64 `json:"denied" ch:"denied"`
	// Held and Approved count approvals, not the retries of a held request.
	Held     uint64 `json:"held" ch:"held"`
	Approved uint64 `json:"approved" ch:"approved"`
}

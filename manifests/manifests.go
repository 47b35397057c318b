package manifests

import (
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api/v1"
	"sigs.k8s.io/yaml"

	k8syaml "k8s.io/apimachinery/pkg/util/yaml"

	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
)

// CRDs are the custom resource definitions.
//
//go:embed crds/tipstaff.dev_*.yaml
var CRDs embed.FS

// Base is the kustomize base: namespace, RBAC, webhook configuration and flow
// control.
//
//go:embed base/namespace.yaml base/rbac.yaml base/webhooks.yaml base/flowcontrol.yaml
var Base embed.FS

// DefaultRules is the risk rule set that holds where the config has none.
//
//go:embed rules/default.yaml
var DefaultRules []byte

// AuditPolicy is the API server's --audit-policy-file: all of what agents do,
// what anyone does to tipstaff's own objects, nothing else. Where identities of
// the cluster count as agents, take [AuditPolicyFor].
//
//go:embed apiserver/audit-policy.yaml
var AuditPolicy []byte

// RBAC is base/rbac.yaml.
//
//go:embed base/rbac.yaml
var RBAC []byte

//go:embed base/webhooks.yaml
var webhooks []byte

//go:embed base/flowcontrol.yaml
var flowControl []byte

// WebhookConfiguration is what [Webhooks] gives, with its webhooks at base (such
// as https://127.0.0.1:8443; their paths are added) instead of the Service, and
// trusting the CA in caPEM. An empty base leaves the Service.
func WebhookConfiguration(agents *clusteragents.Config, base string, caPEM []byte) (*admissionregistrationv1.ValidatingWebhookConfiguration, error) {
	if base != "" {
		u, err := url.Parse(base)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("webhook address %q is not https://host:port", base)
		}
	}
	text, err := Webhooks(agents)
	if err != nil {
		return nil, err
	}
	var cfg admissionregistrationv1.ValidatingWebhookConfiguration
	if err := yaml.UnmarshalStrict(text, &cfg); err != nil {
		return nil, fmt.Errorf("read base/webhooks.yaml: %w", err)
	}
	for i := range cfg.Webhooks {
		cc := &cfg.Webhooks[i].ClientConfig
		if base == "" {
			cc.CABundle = caPEM
			continue
		}
		if cc.Service == nil || cc.Service.Path == nil {
			return nil, fmt.Errorf("base/webhooks.yaml: webhook %s names no service path", cfg.Webhooks[i].Name)
		}
		at := strings.TrimSuffix(base, "/") + *cc.Service.Path
		*cc = admissionregistrationv1.WebhookClientConfig{URL: &at, CABundle: caPEM}
	}
	return &cfg, nil
}

// WebhookKubeconfig renders the kubeconfig file by which the API server finds a
// webhook (--authentication-token-webhook-config-file,
// --audit-webhook-config-file): server is the full URL, the rest are files.
func WebhookKubeconfig(server, caFile, certFile, keyFile string) ([]byte, error) {
	return yaml.Marshal(clientcmdapi.Config{
		Kind: "Config", APIVersion: "v1", CurrentContext: "tipstaff",
		Clusters:  []clientcmdapi.NamedCluster{{Name: "tipstaff", Cluster: clientcmdapi.Cluster{Server: server, CertificateAuthority: caFile}}},
		AuthInfos: []clientcmdapi.NamedAuthInfo{{Name: "kube-apiserver", AuthInfo: clientcmdapi.AuthInfo{ClientCertificate: certFile, ClientKey: keyFile}}},
		Contexts:  []clientcmdapi.NamedContext{{Name: "tipstaff", Context: clientcmdapi.Context{Cluster: "tipstaff", AuthInfo: "kube-apiserver"}}},
	})
}

// Objects splits a file of several YAML documents into JSON objects.
func Objects(file []byte) ([]json.RawMessage, error) {
	var out []json.RawMessage
	d := k8syaml.NewYAMLOrJSONDecoder(strings.NewReader(string(file)), 4096)
	for {
		var raw json.RawMessage
		err := d.Decode(&raw)
		if err == io.EOF { //nolint:errorlint // the decoder's own end mark
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("split YAML: %w", err)
		}
		if len(raw) > 0 && string(raw) != "null" {
			out = append(out, raw)
		}
	}
}

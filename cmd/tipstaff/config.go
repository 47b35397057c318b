package main

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/approvals"
	"github.com/tipstaff-dev/tipstaff/authn"
	"github.com/tipstaff-dev/tipstaff/ingest"
	"github.com/tipstaff-dev/tipstaff/internal/access"
	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
	"github.com/tipstaff-dev/tipstaff/internal/config"
	"github.com/tipstaff-dev/tipstaff/mask"
	"github.com/tipstaff-dev/tipstaff/proxy"
	"github.com/tipstaff-dev/tipstaff/schema"
	"github.com/tipstaff-dev/tipstaff/webhook"
)

// minMaskKeyBytes is the size of HMAC-SHA256's output, below which a key
// weakens it (RFC 2104 section 3).
const minMaskKeyBytes = 32

// Config is the configuration file. A role whose section is missing doesn't run.
type Config struct {
	metav1.TypeMeta `json:",inline"`

	// Cluster is this cluster's name in the audit trail and in marks.
	Cluster string `json:"cluster"`
	// Kubeconfig is how tipstaff reaches the API server; empty means the
	// service account of its own pod.
	Kubeconfig string `json:"kubeconfig,omitempty"`
	// MaskKeyFile holds 32 or more random bytes, the key of all marks. All
	// replicas of a cluster share it.
	MaskKeyFile string `json:"maskKeyFile"`
	// Masking says what is masked beside what is masked in every cluster.
	Masking mask.Config `json:"masking,omitempty"`
	// Health serves /healthz, /readyz and /metrics without TLS.
	Health Health `json:"health"`

	// ClusterAgents are identities of the cluster itself that count as agents.
	ClusterAgents clusteragents.Config `json:"clusterAgents,omitempty"`
	// Access bounds what profiles and grants may give.
	Access access.Limits `json:"access,omitempty"`

	Authn      *authn.Config     `json:"authn,omitempty"`
	Webhook    *webhook.Config   `json:"webhook,omitempty"`
	Approvals  approvals.Config  `json:"approvals,omitempty"`
	Proxy      *proxy.Config     `json:"proxy,omitempty"`
	Ingest     *ingest.Config    `json:"ingest,omitempty"`
	ClickHouse *ClickHouseConfig `json:"clickhouse,omitempty"`

	// guarded says that the file has a section webhook, in whichever process its
	// role runs.
	guarded bool
}

// Health is where the state of the process can be asked.
type Health struct {
	// Listen is host:port. Empty means that nothing is served.
	Listen string `json:"listen,omitempty"`
}

// ClickHouseConfig is the ClickHouse that holds the audit trail.
type ClickHouseConfig struct {
	schema.ClickHouse `json:",inline"`
	// Embedded runs the engine beside tipstaff, serving at the URL's address.
	Embedded *EmbeddedClickHouse `json:"embedded,omitempty"`
}

// EmbeddedClickHouse is a ClickHouse of tipstaff's own.
type EmbeddedClickHouse struct {
	// Dir holds its data.
	Dir string `json:"dir"`
	// Library is the file libchdb.so; empty means the places that `make lib` fills.
	Library string `json:"library,omitempty"`
}

// Validate reports everything wrong with c, files that can't be read included.
func (c *Config) Validate(*field.Path) field.ErrorList {
	var errs field.ErrorList
	at := field.NewPath
	if c.APIVersion != v1alpha1.GroupVersion.String() {
		errs = append(errs, field.NotSupported(at("apiVersion"), c.APIVersion, []string{v1alpha1.GroupVersion.String()}))
	}
	if c.Kind != "Config" {
		errs = append(errs, field.NotSupported(at("kind"), c.Kind, []string{"Config"}))
	}
	for _, msg := range validation.IsDNS1123Label(c.Cluster) {
		errs = append(errs, field.Invalid(at("cluster"), c.Cluster, msg))
	}
	if c.Kubeconfig != "" {
		if _, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig); err != nil {
			errs = append(errs, field.Invalid(at("kubeconfig"), c.Kubeconfig, "can't be used: "+err.Error()))
		}
	}
	if c.Health.Listen != "" {
		if _, _, err := net.SplitHostPort(c.Health.Listen); err != nil {
			errs = append(errs, field.Invalid(at("health", "listen"), c.Health.Listen, `must be host:port, such as "127.0.0.1:8080"`))
		}
	}
	if _, err := c.maskKey(); err != nil {
		if c.MaskKeyFile == "" {
			errs = append(errs, field.Required(at("maskKeyFile"), err.Error()))
		} else {
			errs = append(errs, field.Invalid(at("maskKeyFile"), c.MaskKeyFile, err.Error()))
		}
	}
	errs = append(errs, c.Masking.Validate(at("masking"))...)
	errs = append(errs, c.ClusterAgents.Validate(at("clusterAgents"))...)
	errs = append(errs, c.Access.Validate(at("access"))...)
	if c.Authn != nil {
		errs = append(errs, c.Authn.Validate(at("authn"), &c.Access)...)
		if c.Authn.Listen == "" && c.Proxy == nil {
			errs = append(errs, field.Required(at("authn", "listen"), `address to serve TokenReviews on, such as ":8443": without it only a proxy uses the issuers, and this file has none`))
		}
	}
	if c.Webhook != nil {
		errs = append(errs, c.Webhook.Validate(at("webhook"))...)
	}
	errs = append(errs, c.Approvals.Validate(at("approvals"))...)
	if c.Proxy != nil {
		errs = append(errs, c.Proxy.Validate(at("proxy"))...)
		if c.Authn == nil {
			errs = append(errs, field.Required(at("authn"), "the proxy verifies tokens by the issuers that stand here"))
		}
		if c.Proxy.Records == nil {
			switch {
			case c.Ingest == nil && c.Proxy.Audit != nil:
				errs = append(errs, field.Required(at("proxy", "records"), "where the proxy's audit events are kept: an ingest role elsewhere, since this file has none"))
			case c.Ingest != nil && !slices.Contains(c.Ingest.Clusters, c.Cluster):
				errs = append(errs, field.Required(at("proxy", "records"), "ingest here takes no records of this cluster: name it in ingest.clusters, or an ingest role elsewhere"))
			}
		}
	}
	if c.Ingest != nil {
		errs = append(errs, c.Ingest.Validate(at("ingest"))...)
		if c.ClickHouse == nil {
			errs = append(errs, field.Required(at("clickhouse"), "ingest writes to it"))
		}
	}
	if c.ClickHouse != nil {
		errs = append(errs, c.ClickHouse.Validate(at("clickhouse"))...)
		if e := c.ClickHouse.Embedded; e != nil && e.Dir == "" {
			errs = append(errs, field.Required(at("clickhouse", "embedded", "dir"), "folder for the data"))
		}
	}
	return errs
}

// maskKey reads the key. Its error never quotes what the file holds.
func (c *Config) maskKey() ([]byte, error) {
	if c.MaskKeyFile == "" {
		return nil, fmt.Errorf("file with %d or more random bytes, such as made by: head -c 32 /dev/urandom", minMaskKeyBytes)
	}
	key, err := os.ReadFile(c.MaskKeyFile)
	if err != nil {
		return nil, fmt.Errorf("can't be read: %w", err)
	}
	if len(key) < minMaskKeyBytes {
		return nil, fmt.Errorf("holds %d bytes, %d or more are needed", len(key), minMaskKeyBytes)
	}
	return key, nil
}

// loadConfig reads the file that --config names.
func (o *options) loadConfig() (*Config, error) {
	if o.configFile == "" {
		return nil, fmt.Errorf("no configuration: name the file with --config")
	}
	c := &Config{}
	if err := config.Load(o.configFile, c); err != nil {
		return nil, err
	}
	return c, nil
}

// store is the ClickHouse to ask: --clickhouse, else the config's.
func (o *options) store() (schema.ClickHouse, error) {
	if o.clickhouse == "" {
		if o.configFile == "" {
			return schema.ClickHouse{}, fmt.Errorf("no ClickHouse: name it with --clickhouse URL or --config FILE")
		}
		c, err := o.loadConfig()
		if err != nil {
			return schema.ClickHouse{}, err
		}
		if c.ClickHouse == nil {
			return schema.ClickHouse{}, fmt.Errorf("%s has no clickhouse section: name one with --clickhouse URL", o.configFile)
		}
		return c.ClickHouse.ClickHouse, nil
	}
	if _, err := url.Parse(o.clickhouse); err != nil {
		return schema.ClickHouse{}, fmt.Errorf("--clickhouse is no URL") // the error would quote its password
	}
	return schema.ClickHouse{URL: o.clickhouse}, nil
}

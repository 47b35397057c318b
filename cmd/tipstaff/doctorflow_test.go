package main

import (
	"strings"
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
)

func TestDoctorKnowsWhoQueues(t *testing.T) {
	t.Parallel()
	agents := &clusteragents.Config{ServiceAccounts: []string{"ops/bot"}, Groups: []string{"ai-agents"}}
	type cluster struct {
		schemas []flowcontrolv1.FlowSchema
		levels  map[string]flowcontrolv1.PriorityLevelEnablement
	}
	for name, tt := range map[string]struct {
		agents *clusteragents.Config // who is named in the cluster
		file   string
		change func(*cluster)
		want   string // empty: all is right
	}{
		"as generated":               {agents: agents, file: "c.yaml"},
		"generated, and no config":   {agents: agents},
		"an agent is missing":        {file: "c.yaml", want: "flow schema tipstaff-agents has other subjects than it should: apply what `tipstaff manifests flow-control --config c.yaml` prints"},
		"more agents than there are": {agents: &clusteragents.Config{ServiceAccounts: []string{"ops/bot"}, Groups: []string{"ai-agents", "people"}}, file: "c.yaml", want: "other subjects"},
		"none": {agents: agents, file: "c.yaml", want: "there is no flow schema tipstaff-agents", change: func(c *cluster) {
			c.schemas = nil
		}},
		"nothing of Tipstaff's own": {agents: agents, want: "there is no flow schema tipstaff: apply what `tipstaff manifests flow-control` prints", change: func(c *cluster) {
			c.schemas = c.schemas[:1]
		}},
		"after others": {agents: agents, want: "other precedence", change: func(c *cluster) { c.schemas[0].Spec.MatchingPrecedence = 9950 }},
		"only reads": {agents: agents, want: "other resources", change: func(c *cluster) {
			c.schemas[0].Spec.Rules[0].ResourceRules[0].Verbs = []string{"get"}
		}},
		"no level":            {agents: agents, want: "the priority level tipstaff-agents, which isn't there", change: func(c *cluster) { delete(c.levels, "tipstaff-agents") }},
		"a level without end": {agents: agents, want: "has no limit", change: func(c *cluster) { c.levels["tipstaff"] = flowcontrolv1.PriorityLevelEnablementExempt }},
		"the level of everybody": {agents: agents, want: "flow schema global-default shares the priority level tipstaff-agents", change: func(c *cluster) {
			c.schemas = append(c.schemas, flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "global-default"}, Spec: c.schemas[0].Spec})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			schemas, err := flowSchemas(tt.agents)
			if err != nil {
				t.Fatal(err)
			}
			c := &cluster{schemas, map[string]flowcontrolv1.PriorityLevelEnablement{"tipstaff": flowcontrolv1.PriorityLevelEnablementLimited, "tipstaff-agents": flowcontrolv1.PriorityLevelEnablementLimited}}
			if tt.change != nil {
				tt.change(c)
			}
			var objects []runtime.Object
			for i := range c.schemas {
				objects = append(objects, &c.schemas[i])
			}
			for name, kind := range c.levels {
				objects = append(objects, &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: kind}})
			}
			known := agents
			if tt.file == "" {
				known = &clusteragents.Config{}
			}
			err = agentsQueueApart(t.Context(), fake.NewClientset(objects...), known, tt.file)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

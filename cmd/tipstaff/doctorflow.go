package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tipstaff-dev/tipstaff/internal/clusteragents"
	"github.com/tipstaff-dev/tipstaff/manifests"
)

// agentsQueueApart checks that the API server has the flow schemas that
// tipstaff manifests flow-control prints, before others that could choose the
// same requests, and that their levels are limited. How many seats those have is
// the admin's to say. file is the configuration's name, empty without one.
func agentsQueueApart(ctx context.Context, c kubernetes.Interface, agents *clusteragents.Config, file string) error {
	how := "apply what `tipstaff manifests flow-control` prints"
	if file != "" {
		how = fmt.Sprintf("apply what `tipstaff manifests flow-control --config %s` prints", file)
	}
	want, err := flowSchemas(agents)
	if err != nil {
		return err
	}
	live, err := c.FlowcontrolV1().FlowSchemas().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list flow schemas: %w", err)
	}
	levels, err := c.FlowcontrolV1().PriorityLevelConfigurations().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list priority levels: %w", err)
	}
	for _, w := range want {
		i := slices.IndexFunc(live.Items, func(l flowcontrolv1.FlowSchema) bool { return l.Name == w.Name })
		if i < 0 {
			return fmt.Errorf("there is no flow schema %s: %s", w.Name, how)
		}
		l := live.Items[i]
		if what := flowDrift(l, w, file != ""); what != "" {
			return fmt.Errorf("flow schema %s has other %s than it should: %s", w.Name, what, how)
		}
		level := l.Spec.PriorityLevelConfiguration.Name
		if !slices.ContainsFunc(levels.Items, func(p flowcontrolv1.PriorityLevelConfiguration) bool {
			return p.Name == level && p.Spec.Type == flowcontrolv1.PriorityLevelEnablementLimited
		}) {
			return fmt.Errorf("flow schema %s leads to the priority level %s, which isn't there or has no limit: %s", w.Name, level, how)
		}
		for _, o := range live.Items {
			if o.Spec.PriorityLevelConfiguration.Name == level && o.Name != w.Name {
				return fmt.Errorf("flow schema %s shares the priority level %s with %s: give it another", o.Name, level, w.Name)
			}
		}
	}
	return nil
}

// flowDrift names what makes live choose other requests than want; empty if
// nothing does. Whether live names more agents is known only with the
// configuration.
func flowDrift(live, want flowcontrolv1.FlowSchema, known bool) string {
	if live.Spec.MatchingPrecedence > want.Spec.MatchingPrecedence {
		return "precedence"
	}
	if len(live.Spec.Rules) != len(want.Spec.Rules) {
		return "rules"
	}
	for i, w := range want.Spec.Rules {
		l := live.Spec.Rules[i]
		for _, s := range w.Subjects {
			if !slices.ContainsFunc(l.Subjects, func(o flowcontrolv1.Subject) bool { return apiequality.Semantic.DeepEqual(o, s) }) {
				return "subjects"
			}
		}
		if known && len(l.Subjects) != len(w.Subjects) {
			return "subjects"
		}
		if !apiequality.Semantic.DeepEqual(l.ResourceRules, w.ResourceRules) || !apiequality.Semantic.DeepEqual(l.NonResourceRules, w.NonResourceRules) {
			return "resources"
		}
	}
	return ""
}

// flowSchemas are those that manifests.FlowControl gives.
func flowSchemas(agents *clusteragents.Config) ([]flowcontrolv1.FlowSchema, error) {
	text, err := manifests.FlowControl(agents)
	if err != nil {
		return nil, err
	}
	objects, err := manifests.Objects(text)
	if err != nil {
		return nil, err
	}
	var out []flowcontrolv1.FlowSchema
	for _, o := range objects {
		var s flowcontrolv1.FlowSchema
		if err := json.Unmarshal(o, &s); err != nil {
			return nil, fmt.Errorf("read base/flowcontrol.yaml: %w", err)
		}
		if s.Kind == "FlowSchema" {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("base/flowcontrol.yaml holds no flow schema")
	}
	return out, nil
}

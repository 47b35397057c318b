package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
	"github.com/tipstaff-dev/tipstaff/webhook"
)

// deciding are the rights without which nobody decides on an approval.
func deciding() []authorizationv1.ResourceAttributes {
	return []authorizationv1.ResourceAttributes{
		{Verb: "approve", Group: v1alpha1.Group, Version: "v1alpha1", Resource: "approvals"},
		{Verb: "update", Group: v1alpha1.Group, Version: "v1alpha1", Resource: "approvals", Subresource: "status"},
	}
}

// approversMayDecide asks whether the groups that rules name may decide. Where
// one may not, what its rule holds stays held until it expires.
func approversMayDecide(ctx context.Context, c kubernetes.Interface, s *sections) error {
	if s.Webhook == nil {
		return nil
	}
	rules, err := webhook.RulesOf(*s.Webhook)
	if err != nil {
		return err
	}
	if s.Webhook.Default == webhook.Hold {
		rules = append(rules, webhook.Rule{Name: "default", Verdict: webhook.Hold, Approvers: []string{webhook.DefaultApprovers}})
	}
	asked := map[string]bool{}
	var wrong []error
	for _, r := range rules {
		if r.Verdict != webhook.Hold {
			continue
		}
		for _, group := range slices.Concat(r.Approvers, r.BreakGlass) {
			if asked[group] {
				continue
			}
			asked[group] = true
			for _, what := range deciding() {
				allowed, _, err := may(ctx, c, identity{"tipstaff-doctor-probe", []string{group}}, what)
				if err != nil {
					return err
				}
				if !allowed {
					wrong = append(wrong, fmt.Errorf("members of group %q, whom rule %q names, can't %s: `kubectl create clusterrolebinding NAME --clusterrole=tipstaff-approver --group=%q`",
						group, r.Name, words(what), group))
					break
				}
			}
		}
	}
	return errors.Join(wrong...)
}

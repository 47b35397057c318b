package webhook

import "testing"

func TestI2_WhatDefinesApprovalsIsOutOfReach(t *testing.T) {
	t.Parallel()
	const crds, services = "apiextensions.k8s.io/customresourcedefinitions", "apiregistration.k8s.io/apiservices"
	own := "{metadata: {name: approvals.tipstaff.dev}, spec: {group: tipstaff.dev}}"
	for _, tc := range []struct {
		name, line, object, old string
		want                    bool
	}{
		{"an approval", "UPDATE tipstaff.dev/approvals - a", "{}", "{}", true},
		{"the schema of approvals, changed", "UPDATE " + crds + " - approvals.tipstaff.dev", own, own, true},
		{"the schema of approvals, in a collection that is deleted", "DELETE " + crds + " - -", "", own, true},
		{"the status of that schema", "UPDATE " + crds + "/status - approvals.tipstaff.dev", own, own, true},
		{"a kind that joins the group", "CREATE " + crds + " - things.tipstaff.dev", "{spec: {group: tipstaff.dev}}", "", true},
		{"an API service that takes the group over", "CREATE " + services + " - v1.tipstaff.dev", "{spec: {group: tipstaff.dev}}", "", true},
		{"another group's schema", "UPDATE " + crds + " - things.example.com", "{metadata: {name: things.example.com}, spec: {group: example.com}}", "{}", false},
		{"a group whose name only ends alike", "UPDATE " + crds + " - things.nottipstaff.dev", "{spec: {group: nottipstaff.dev}}", "{}", false},
		{"a config map of such a name", "UPDATE core/configmaps shop approvals.tipstaff.dev", own, own, false},
	} {
		r, err := open(request(t, tc.line, tc.object, tc.old), testAgent)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if got := ownObject(r); got != tc.want {
			t.Errorf("%s: got %v", tc.name, got)
		}
	}
}

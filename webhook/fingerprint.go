package webhook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// fingerprint stands for exactly this request (I3). object and oldObject are
// normalised; options are as sent.
//
// The bytes that are hashed are canonical: encoding/json sorts the keys of maps
// and the fields of the struct stand in the order written here. The leading
// version makes a later change of this list a change of every fingerprint.
func fingerprint(req *admissionv1.AdmissionRequest, agent v1alpha1.Agent, object, oldObject, options map[string]any) (v1alpha1.Fingerprint, error) {
	name := req.Name
	if drawn := drawnName(req, object); drawn != "" {
		name = drawn
	}
	b, err := json.Marshal(struct {
		Version                                  string
		User, Issuer, Run, Profile               string
		Model, Owner, Task                       string
		Operation                                string
		KindGroup, KindVersion, Kind             string
		Group, APIVersion, Resource, Subresource string
		RequestSubresource                       string
		Namespace, Name                          string
		Options, Object, OldObject               map[string]any
	}{
		Version: "tipstaff/1",
		User:    agent.User, Issuer: agent.Issuer, Run: agent.Run, Profile: agent.Profile,
		Model: agent.Model, Owner: agent.Owner, Task: agent.Task,
		Operation: string(req.Operation),
		KindGroup: req.Kind.Group, KindVersion: req.Kind.Version, Kind: req.Kind.Kind,
		Group: req.Resource.Group, APIVersion: req.Resource.Version, Resource: req.Resource.Resource, Subresource: req.SubResource,
		RequestSubresource: req.RequestSubResource,
		Namespace:          req.Namespace, Name: name,
		Options: options, Object: object, OldObject: oldObject,
	})
	if err != nil {
		return "", fmt.Errorf("encode the request for its fingerprint: %w", err)
	}
	sum := sha256.Sum256(b)
	return v1alpha1.Fingerprint(hex.EncodeToString(sum[:])), nil
}

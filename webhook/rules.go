package webhook

import (
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"k8s.io/apimachinery/pkg/util/version"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
)

// rule is a compiled Rule.
type rule struct {
	Rule
	env     *cel.Env // that it was compiled in
	ast     *cel.Ast
	program cel.Program
	reach   reach
	order   int // its place among the rules
}

// The types of the variables request, agent and namespaceObject: a field that they
// don't have is an error of the rule, not of each request.
var (
	requestType   = plugincel.BuildRequestType()
	namespaceType = plugincel.BuildNamespaceType()
	agentType     = apiservercel.NewObjectType("tipstaff.Agent", stringFields("user", "issuer", "run", "model", "owner", "task", "profile"))
)

func stringFields(names ...string) map[string]*apiservercel.DeclField {
	fields := map[string]*apiservercel.DeclField{}
	for _, n := range names {
		fields[n] = apiservercel.NewDeclField(n, apiservercel.StringType, true, nil, nil)
	}
	return fields
}

// celEnv is the CEL environment of Kubernetes' own admission policies, with the
// variables of a rule. Building it costs milliseconds: once.
var celEnv = sync.OnceValues(func() (*cel.Env, error) {
	set, err := environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()).Extend(environment.VersionedOptions{
		IntroducedVersion: version.MajorMinor(1, 0),
		EnvOptions: []cel.EnvOption{
			cel.Variable("object", cel.DynType),
			cel.Variable("oldObject", cel.DynType),
			cel.Variable("request", requestType.CelType()),
			cel.Variable("agent", agentType.CelType()),
			cel.Variable(varNamespace, namespaceType.CelType()),
			cel.Variable(varAuthorizer, library.AuthorizerType),
			cel.Variable(varRequestResource, library.ResourceCheckType),
		},
		DeclTypes: []*apiservercel.DeclType{requestType, agentType, namespaceType},
	})
	if err != nil {
		return nil, fmt.Errorf("make the CEL environment: %w", err)
	}
	return set.Env(environment.StoredExpressions)
})

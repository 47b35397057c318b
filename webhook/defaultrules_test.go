package webhook

import (
	"os"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/tipstaff-dev/tipstaff/manifests"
)

// allows stands for the rule where none matches.
const allows = ""

const (
	deployment3 = "{kind: Deployment, spec: {replicas: 3, template: {spec: {containers: [{name: a, image: b}]}}}}"
	ownedBySet  = "{metadata: {ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: db, uid: u1}]}}"
	now         = "{gracePeriodSeconds: 0}"
	helmRelease = "{metadata: {name: sh.helm.release.v1.app.v1}, type: helm.sh/release.v1, data: {release: eA==}}"
)

// ruleCase is one request. It is caught by the rule, or is a near miss of it: near what the
// rule catches, and not caught by it.
type ruleCase struct {
	name             string
	rule             string
	req, object, old string
	options          string
	near             bool
	by               string // of a near miss: the rule that decides it; empty means that none does
}

func (c ruleCase) request(t *testing.T) *admissionv1.AdmissionRequest {
	t.Helper()
	req := request(t, c.req, c.object, c.old)
	req.Options = request(t, c.req, c.options, "").Object
	return req
}

func caught(name, rule, req, object, old string) ruleCase {
	return ruleCase{name: name, rule: rule, req: req, object: object, old: old}
}

func passes(name, rule, req, object, old string) ruleCase {
	return ruleCase{name: name, rule: rule, req: req, object: object, old: old, near: true}
}

func passesTo(by string, c ruleCase) ruleCase { c.by = by; return c }

func with(options string, c ruleCase) ruleCase { c.options = options; return c }

var ruleCases = []ruleCase{
	caught("deleting a namespace", "delete-namespace", "DELETE core/namespaces prod prod", "", "{kind: Namespace}"),
	passes("creating a namespace", "delete-namespace", "CREATE core/namespaces prod prod", "{kind: Namespace}", ""),
	passes("deleting a kind of that name in another group", "delete-namespace", "DELETE example.com/namespaces - prod", "", "{}"),

	caught("deleting a CRD", "delete-crd", "DELETE apiextensions.k8s.io/customresourcedefinitions - x.y", "", "{}"),
	passes("deleting one object of a CRD", "delete-crd", "DELETE x.y/things shop a", "", "{}"),

	caught("changing a CRD", "change-crd", "UPDATE apiextensions.k8s.io/customresourcedefinitions - x.y", "{}", "{}"),
	passes("creating a CRD", "change-crd", "CREATE apiextensions.k8s.io/customresourcedefinitions - x.y", "{}", ""),

	caught("deleting a volume claim", "delete-data", "DELETE core/persistentvolumeclaims shop data", "", "{}"),
	caught("deleting a volume", "delete-data", "DELETE core/persistentvolumes - pv1", "", "{}"),
	caught("deleting a StatefulSet", "delete-data", "DELETE apps/statefulsets shop db", "", "{}"),
	caught("deleting a snapshot", "delete-data", "DELETE snapshot.storage.k8s.io/volumesnapshots shop nightly", "", "{}"),
	passes("deleting a small Deployment", "delete-data", "DELETE apps/deployments shop web", "", deployment3),
	passes("creating a volume claim", "delete-data", "CREATE core/persistentvolumeclaims shop data", "{}", ""),
	passes("taking a snapshot", "delete-data", "CREATE snapshot.storage.k8s.io/volumesnapshots shop nightly", "{}", ""),

	caught("creating a volume, which can be a path of a host", "volume-change", "CREATE core/persistentvolumes - pv1", "{spec: {hostPath: {path: /}}}", ""),
	caught("a volume that is to be deleted with its claim", "volume-change", "UPDATE core/persistentvolumes - pv1", "{spec: {persistentVolumeReclaimPolicy: Delete}}", "{spec: {persistentVolumeReclaimPolicy: Retain}}"),
	caught("a volume that loses its claim", "volume-change", "UPDATE core/persistentvolumes - pv1", "{spec: {}}", "{spec: {claimRef: {name: data}}}"),
	caught("a StatefulSet whose claims are to go with it", "volume-change", "UPDATE apps/statefulsets shop db", "{spec: {persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete}}}", "{spec: {persistentVolumeClaimRetentionPolicy: {whenDeleted: Retain}}}"),
	caught("a StatefulSet whose claims are to go when it shrinks", "volume-change", "UPDATE apps/statefulsets shop db", "{spec: {persistentVolumeClaimRetentionPolicy: {whenScaled: Delete}}}", "{spec: {}}"),
	caught("a snapshot whose content is to go with it", "volume-change", "UPDATE snapshot.storage.k8s.io/volumesnapshotcontents - c", "{spec: {deletionPolicy: Delete}}", "{spec: {deletionPolicy: Retain}}"),
	caught("a snapshot of anything by its handle", "volume-change", "CREATE snapshot.storage.k8s.io/volumesnapshotcontents - c", "{spec: {source: {snapshotHandle: other}}}", ""),
	passes("a volume's label", "volume-change", "UPDATE core/persistentvolumes - pv1", "{metadata: {labels: {a: b}}, spec: {capacity: {storage: 1Gi}}}", "{spec: {capacity: {storage: 1Gi}}}"),
	passes("a claim that grows", "volume-change", "UPDATE core/persistentvolumeclaims shop data", "{spec: {resources: {requests: {storage: 2Gi}}}}", "{spec: {resources: {requests: {storage: 1Gi}}}}"),
	passes("a StatefulSet's new image", "volume-change", "UPDATE apps/statefulsets shop db", "{spec: {persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete}, template: {spec: {containers: [{name: a, image: b}]}}}}", "{spec: {persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete}}}"),

	caught("deleting a large Deployment", "delete-workload", "DELETE apps/deployments shop web", "", "{spec: {replicas: 5}}"),
	caught("deleting a DaemonSet", "delete-workload", "DELETE apps/daemonsets shop agent", "", "{spec: {}}"),
	passes("deleting a Deployment of four", "delete-workload", "DELETE apps/deployments shop web", "", "{spec: {replicas: 4}}"),
	passes("deleting a Deployment that names no number", "delete-workload", "DELETE apps/deployments shop web", "", "{spec: {}}"),
	passes("deleting a Job", "delete-workload", "DELETE batch/jobs shop once", "", "{spec: {parallelism: 9}}"),

	caught("taking a finalizer off", "finalizers-and-owners", "UPDATE example.com/things shop a", "{metadata: {}}", "{metadata: {finalizers: [example.com/backup]}}"),
	caught("replacing a finalizer", "finalizers-and-owners", "UPDATE core/configmaps shop a", "{metadata: {finalizers: [x/b]}}", "{metadata: {finalizers: [x/a]}}"),
	caught("ending a namespace's cleaning up", "finalizers-and-owners", "UPDATE core/namespaces/finalize shop shop", "{spec: {}}", "{spec: {finalizers: [kubernetes]}}"),
	caught("an owner that isn't there, so that the object goes", "finalizers-and-owners", "UPDATE apps/deployments shop web", "{metadata: {ownerReferences: [{kind: ConfigMap, name: gone, uid: u2}]}}", "{metadata: {}}"),
	caught("an owner of another name", "finalizers-and-owners", "UPDATE core/persistentvolumeclaims shop a", "{metadata: {ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: gone, uid: u1}]}}", ownedBySet),
	caught("an owner of another kind", "finalizers-and-owners", "UPDATE core/persistentvolumeclaims shop a", "{metadata: {ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: db, uid: u1}]}}", ownedBySet),
	passes("an object that keeps its finalizer", "finalizers-and-owners", "UPDATE core/configmaps shop a", "{metadata: {finalizers: [x/a]}, data: {a: b}}", "{metadata: {finalizers: [x/a]}}"),
	passes("adding a finalizer", "finalizers-and-owners", "UPDATE core/configmaps shop a", "{metadata: {finalizers: [x/a, x/b]}}", "{metadata: {finalizers: [x/a]}}"),
	passes("a pod that keeps its owner", "finalizers-and-owners", "UPDATE core/pods shop db-0", ownedBySet, ownedBySet),
	passes("an object that is created with an owner", "finalizers-and-owners", "CREATE core/configmaps shop a", ownedBySet, ""),
	passes("deleting an object with a finalizer, which it keeps", "finalizers-and-owners", "DELETE core/configmaps shop a", "", "{metadata: {finalizers: [x/a]}}"),

	caught("one of a collection that is deleted", "delete-collection", "DELETE core/configmaps shop", "", "{metadata: {name: c}}"),
	passes("deleting a config map", "delete-collection", "DELETE core/configmaps shop c", "", "{kind: ConfigMap}"),
	passes("creating under a name that is still to be made up", "delete-collection", "CREATE core/configmaps shop", "{metadata: {generateName: c-}}", ""),

	caught("scaling to zero, which a Scale leaves out", "scale-to-zero", "UPDATE apps/deployments/scale shop web", "{kind: Scale, spec: {}}", "{kind: Scale, spec: {replicas: 2}}"),
	caught("scaling a kind of one's own to zero", "scale-to-zero", "UPDATE example.com/things/scale shop web", "{kind: Scale, spec: {}}", "{kind: Scale, spec: {replicas: 2}}"),
	caught("zero replicas by way of the Deployment", "scale-to-zero", "UPDATE apps/deployments shop web", "{spec: {replicas: 0}}", deployment3),
	passes("scaling from zero", "scale-to-zero", "UPDATE apps/deployments/scale shop web", "{kind: Scale, spec: {replicas: 2}}", "{kind: Scale, spec: {}}"),
	passes("scaling to one", "scale-to-zero", "UPDATE apps/deployments/scale shop web", "{kind: Scale, spec: {replicas: 1}}", "{kind: Scale, spec: {replicas: 2}}"),
	passes("an update that leaves zero at zero", "scale-to-zero", "UPDATE apps/deployments shop web", "{spec: {replicas: 0}}", "{spec: {replicas: 0}}"),
	passes("a Deployment that names no number, which is one", "scale-to-zero", "UPDATE apps/deployments shop web", "{spec: {}}", deployment3),

	caught("scaling down fourfold", "scale-far", "UPDATE apps/deployments/scale shop web", "{spec: {replicas: 2}}", "{spec: {replicas: 8}}"),
	caught("scaling up far", "scale-far", "UPDATE apps/deployments/scale shop web", "{spec: {replicas: 40}}", "{spec: {replicas: 4}}"),
	caught("scaling up far by way of the Deployment", "scale-far", "UPDATE apps/deployments shop web", "{spec: {replicas: 40}}", deployment3),
	caught("an autoscaler that starts with many", "scale-far", "CREATE autoscaling/horizontalpodautoscalers shop web", "{spec: {minReplicas: 50, maxReplicas: 100}}", ""),
	caught("an autoscaler that leaves a fourth", "scale-far", "UPDATE autoscaling/horizontalpodautoscalers shop web", "{spec: {maxReplicas: 2}}", "{spec: {maxReplicas: 8}}"),
	passes("scaling by half", "scale-far", "UPDATE apps/deployments/scale shop web", "{spec: {replicas: 4}}", "{spec: {replicas: 8}}"),
	passes("scaling a small one up", "scale-far", "UPDATE apps/deployments/scale shop web", "{spec: {replicas: 10}}", "{spec: {replicas: 1}}"),
	passes("an ordinary autoscaler", "scale-far", "CREATE autoscaling/horizontalpodautoscalers shop web", "{spec: {minReplicas: 2, maxReplicas: 10}}", ""),
	passes("an autoscaler that may go further", "scale-far", "UPDATE autoscaling/horizontalpodautoscalers shop web", "{spec: {minReplicas: 2, maxReplicas: 50}}", "{spec: {minReplicas: 2, maxReplicas: 10}}"),

	caught("exec", "exec", "CONNECT core/pods/exec shop web-0", "{kind: PodExecOptions, command: [sh]}", ""),
	caught("attach", "exec", "CONNECT core/pods/attach shop web-0", "{}", ""),
	caught("port-forward", "exec", "CONNECT core/pods/portforward shop web-0", "{}", ""),
	caught("an ephemeral container", "exec", "UPDATE core/pods/ephemeralcontainers shop web-0", "{spec: {}}", "{spec: {}}"),
	caught("a connection to something of an aggregated API", "exec", "CONNECT subresources.kubevirt.io/virtualmachineinstances/console shop vm", "{}", ""),
	passes("a pod's labels", "exec", "UPDATE core/pods shop web-0", "{metadata: {labels: {a: b}}, spec: {containers: []}}", "{spec: {containers: []}}"),
	passes("a pod's new size", "exec", "UPDATE core/pods/resize shop web-0", "{spec: {containers: [{name: a, resources: {limits: {cpu: '1'}}}]}}", "{spec: {containers: [{name: a}]}}"),

	caught("a node's proxy", "proxy", "CONNECT core/nodes/proxy - n1", "{}", ""),
	caught("a service's proxy", "proxy", "CONNECT core/services/proxy shop web", "{}", ""),
	caught("a pod's proxy", "proxy", "CONNECT core/pods/proxy shop web-0", "{}", ""),
	passesTo("exec", passes("port-forward is shown and held", "proxy", "CONNECT core/pods/portforward shop web-0", "{}", "")),

	caught("an eviction", "evict", "CREATE core/pods/eviction shop web-0", "{kind: Eviction}", ""),
	caught("a binding", "evict", "CREATE core/pods/binding shop web-0", "{kind: Binding}", ""),
	caught("a binding of the old kind", "evict", "CREATE core/bindings shop web-0", "{kind: Binding}", ""),
	with(now, caught("deleting a StatefulSet's pod by force", "evict", "DELETE core/pods shop db-0", "", ownedBySet)),
	with("{gracePeriodSeconds: 30}", passes("deleting a StatefulSet's pod", "evict", "DELETE core/pods shop db-0", "", ownedBySet)),
	passes("deleting a pod without options", "evict", "DELETE core/pods shop db-0", "", ownedBySet),
	with(now, passes("deleting a pod of nobody by force", "evict", "DELETE core/pods shop once", "", "{metadata: {}}")),

	caught("cordoning a node", "node-change", "UPDATE core/nodes - n1", "{spec: {unschedulable: true}}", "{spec: {}}"),
	caught("deleting a node", "node-change", "DELETE core/nodes - n1", "", "{}"),
	caught("a node's status", "node-change", "UPDATE core/nodes/status - n1", "{}", "{}"),
	passesTo("proxy", passes("a node's proxy is denied", "node-change", "CONNECT core/nodes/proxy - n1", "{}", "")),

	caught("a privileged pod", "privileged-pod", "CREATE core/pods shop p", "{spec: {containers: [{name: a, securityContext: {privileged: true}}]}}", ""),
	caught("a privileged init container", "privileged-pod", "CREATE core/pods shop p", "{spec: {initContainers: [{name: a, securityContext: {privileged: true}}]}}", ""),
	caught("a privileged ephemeral container", "privileged-pod", "UPDATE core/pods/ephemeralcontainers shop p", "{spec: {ephemeralContainers: [{name: a, securityContext: {privileged: true}}]}}", "{spec: {}}"),
	caught("a host path in a Deployment", "privileged-pod", "CREATE apps/deployments shop p", "{spec: {template: {spec: {volumes: [{name: v, hostPath: {path: /}}]}}}}", ""),
	caught("a host path in a pod template", "privileged-pod", "CREATE core/podtemplates shop p", "{template: {spec: {volumes: [{name: v, hostPath: {path: /}}]}}}", ""),
	caught("the host's network in a CronJob", "privileged-pod", "CREATE batch/cronjobs shop p", "{spec: {jobTemplate: {spec: {template: {spec: {hostNetwork: true}}}}}}", ""),
	caught("a port of the host", "privileged-pod", "CREATE core/pods shop p", "{spec: {containers: [{name: a, ports: [{containerPort: 80, hostPort: 80}]}]}}", ""),
	caught("a capability", "privileged-pod", "CREATE core/pods shop p", "{spec: {containers: [{name: a, securityContext: {capabilities: {add: [SYS_ADMIN]}}}]}}", ""),
	caught("a capability that runtimes read whatever its case", "privileged-pod", "CREATE core/pods shop p", "{spec: {containers: [{name: a, securityContext: {capabilities: {add: [cap_sys_admin]}}}]}}", ""),
	caught("a pod without a filter for system calls", "privileged-pod", "CREATE core/pods shop p", "{spec: {securityContext: {seccompProfile: {type: Unconfined}}, containers: [{name: a}]}}", ""),
	caught("a container without AppArmor", "privileged-pod", "CREATE core/pods shop p", "{spec: {containers: [{name: a, securityContext: {appArmorProfile: {type: Unconfined}}}]}}", ""),
	caught("an open /proc", "privileged-pod", "CREATE core/pods shop p", "{spec: {containers: [{name: a, securityContext: {procMount: Unmasked}}]}}", ""),
	caught("an unsafe setting of the kernel", "privileged-pod", "CREATE core/pods shop p", "{spec: {securityContext: {sysctls: [{name: kernel.msgmax, value: '1'}]}}}", ""),
	caught("an SELinux type of its own", "privileged-pod", "CREATE core/pods shop p", "{spec: {containers: [{name: a, securityContext: {seLinuxOptions: {type: spc_t}}}]}}", ""),
	caught("an SELinux user", "privileged-pod", "CREATE core/pods shop p", "{spec: {securityContext: {seLinuxOptions: {user: root}}}}", ""),
	passes("a safe setting of the kernel", "privileged-pod", "CREATE core/pods shop p", "{spec: {securityContext: {seLinuxOptions: {level: 's0:c1,c2', type: container_t}, sysctls: [{name: net.ipv4.tcp_syncookies, value: '1'}]}}}", ""),
	caught("a process of a Windows host", "privileged-pod", "CREATE core/pods shop p", "{spec: {securityContext: {windowsOptions: {hostProcess: true}}}}", ""),
	passes("an ordinary pod", "privileged-pod", "CREATE core/pods shop p", "{spec: {serviceAccountName: default, securityContext: {seccompProfile: {type: RuntimeDefault}}, volumes: [{name: v, emptyDir: {}}], containers: [{name: a, ports: [{containerPort: 80}], securityContext: {privileged: false, procMount: Default, capabilities: {add: [NET_BIND_SERVICE], drop: [ALL]}}}]}}", ""),
	passes("an ordinary Deployment", "privileged-pod", "CREATE apps/deployments shop web", deployment3, ""),

	caught("a pod that names its node", "placement", "CREATE core/pods shop p", "{spec: {nodeName: n1}}", ""),
	caught("a Deployment that gets a node", "placement", "UPDATE apps/deployments shop p", "{spec: {template: {spec: {nodeName: n1}}}}", deployment3),
	caught("a CronJob for the control plane", "placement", "CREATE batch/cronjobs shop p", "{spec: {jobTemplate: {spec: {template: {spec: {tolerations: [{key: node-role.kubernetes.io/control-plane, operator: Exists}]}}}}}}", ""),
	caught("a pod that tolerates everything", "placement", "CREATE core/pods shop p", "{spec: {tolerations: [{operator: Exists}]}}", ""),
	caught("a pod template that pushes others out", "placement", "CREATE core/podtemplates shop p", "{template: {spec: {priorityClassName: system-node-critical}}}", ""),
	caught("a DaemonSet, which runs everywhere", "placement", "CREATE apps/daemonsets shop p", "{spec: {template: {spec: {}}}}", ""),
	passes("the label of a pod that runs on a node", "placement", "UPDATE core/pods shop p", "{metadata: {labels: {a: b}}, spec: {nodeName: n1, tolerations: [{operator: Exists}]}}", "{spec: {nodeName: n1, tolerations: [{operator: Exists}]}}"),
	passes("a DaemonSet's new image", "placement", "UPDATE apps/daemonsets shop p", "{spec: {template: {spec: {containers: [{name: a, image: b:2}], tolerations: [{operator: Exists}]}}}}", "{spec: {template: {spec: {containers: [{name: a, image: b}], tolerations: [{operator: Exists}]}}}}"),
	passes("what every pod tolerates, and a priority of one's own", "placement", "CREATE core/pods shop p", "{spec: {priorityClassName: batch, tolerations: [{key: node.kubernetes.io/not-ready, operator: Exists}]}}", ""),
	passes("a node selector", "placement", "CREATE core/pods shop p", "{spec: {nodeSelector: {disk: ssd}}}", ""),

	caught("a pod with another service account", "borrow-service-account", "CREATE core/pods shop p", "{spec: {serviceAccountName: admin}}", ""),
	caught("a Job with another service account", "borrow-service-account", "CREATE batch/jobs shop p", "{spec: {template: {spec: {serviceAccountName: admin}}}}", ""),
	caught("a CronJob with another service account", "borrow-service-account", "CREATE batch/cronjobs shop p", "{spec: {jobTemplate: {spec: {template: {spec: {serviceAccountName: admin}}}}}}", ""),
	caught("a Deployment that gets a service account", "borrow-service-account", "UPDATE apps/deployments shop p", "{spec: {template: {spec: {serviceAccountName: admin}}}}", "{spec: {template: {spec: {}}}}"),
	passes("a Deployment that keeps its service account", "borrow-service-account", "UPDATE apps/deployments shop p", "{spec: {template: {spec: {serviceAccountName: web}}}}", "{spec: {template: {spec: {serviceAccountName: web}}}}"),
	passes("a Deployment that loses its service account", "borrow-service-account", "UPDATE apps/deployments shop p", "{spec: {template: {spec: {}}}}", "{spec: {template: {spec: {serviceAccountName: web}}}}"),
	passes("the service account that everybody has", "borrow-service-account", "CREATE core/pods shop p", "{spec: {serviceAccountName: default}}", ""),

	caught("deleting a quota", "namespace-bounds", "DELETE core/resourcequotas shop q", "", "{spec: {hard: {pods: '9'}}}"),
	caught("changing a limit range", "namespace-bounds", "UPDATE core/limitranges shop l", "{spec: {limits: []}}", "{spec: {limits: [{type: Pod}]}}"),
	caught("taking pod security off a namespace", "namespace-bounds", "UPDATE core/namespaces shop shop", "{metadata: {}}", "{metadata: {labels: {pod-security.kubernetes.io/enforce: restricted}}}"),
	caught("a lower level of pod security", "namespace-bounds", "UPDATE core/namespaces shop shop", "{metadata: {labels: {pod-security.kubernetes.io/enforce: baseline}}}", "{metadata: {labels: {pod-security.kubernetes.io/enforce: restricted}}}"),
	caught("a level of pod security that may be lower than the cluster's own", "namespace-bounds", "UPDATE core/namespaces shop shop", "{metadata: {labels: {pod-security.kubernetes.io/enforce: baseline}}}", "{metadata: {}}"),
	caught("a new namespace for privileged pods", "namespace-bounds", "CREATE core/namespaces shop shop", "{metadata: {labels: {pod-security.kubernetes.io/enforce: privileged}}}", ""),
	caught("an older version of pod security", "namespace-bounds", "UPDATE core/namespaces shop shop", "{metadata: {labels: {pod-security.kubernetes.io/enforce: restricted, pod-security.kubernetes.io/enforce-version: v1.22}}}", "{metadata: {labels: {pod-security.kubernetes.io/enforce: restricted}}}"),
	caught("a namespace that Gatekeeper ignores", "namespace-bounds", "UPDATE core/namespaces shop shop", "{metadata: {labels: {admission.gatekeeper.sh/ignore: 'yes'}}}", "{metadata: {labels: {}}}"),
	caught("a namespace with devices for admins", "namespace-bounds", "CREATE core/namespaces shop shop", "{metadata: {labels: {resource.kubernetes.io/admin-access: 'true'}}}", ""),
	passes("a higher level of pod security", "namespace-bounds", "UPDATE core/namespaces shop shop", "{metadata: {labels: {pod-security.kubernetes.io/enforce: restricted}}}", "{metadata: {labels: {pod-security.kubernetes.io/enforce: baseline}}}"),
	passes("a new namespace with a level of pod security", "namespace-bounds", "CREATE core/namespaces shop shop", "{metadata: {labels: {pod-security.kubernetes.io/enforce: baseline, pod-security.kubernetes.io/enforce-version: v1.37}}}", ""),
	passes("another label of a namespace", "namespace-bounds", "UPDATE core/namespaces shop shop", "{metadata: {labels: {team: a, pod-security.kubernetes.io/enforce: privileged}}}", "{metadata: {labels: {pod-security.kubernetes.io/enforce: privileged}}}"),
	passes("creating a quota", "namespace-bounds", "CREATE core/resourcequotas shop q", "{spec: {hard: {pods: '9'}}}", ""),
	passes("a quota's label", "namespace-bounds", "UPDATE core/resourcequotas shop q", "{metadata: {labels: {a: b}}, spec: {hard: {pods: '9'}}}", "{spec: {hard: {pods: '9'}}}"),

	caught("deleting the policy for every pod", "network-isolation", "DELETE networking.k8s.io/networkpolicies shop deny", "", "{spec: {podSelector: {}, policyTypes: [Ingress]}}"),
	caught("narrowing the policy for every pod to some", "network-isolation", "UPDATE networking.k8s.io/networkpolicies shop deny", "{spec: {podSelector: {matchLabels: {a: b}}}}", "{spec: {podSelector: {}}}"),
	caught("letting everybody in to every pod", "network-isolation", "CREATE networking.k8s.io/networkpolicies shop open", "{spec: {podSelector: {}, ingress: [{}]}}", ""),
	caught("letting every pod out to everywhere", "network-isolation", "CREATE networking.k8s.io/networkpolicies shop open", "{spec: {podSelector: {}, egress: [{ports: [{port: 443}]}]}}", ""),
	caught("letting every address in", "network-isolation", "CREATE networking.k8s.io/networkpolicies shop open", "{spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}}", ""),
	caught("letting every address of IPv6 in", "network-isolation", "CREATE networking.k8s.io/networkpolicies shop open", "{spec: {podSelector: {}, egress: [{to: [{ipBlock: {cidr: '::/0'}}]}]}}", ""),
	caught("letting every namespace in", "network-isolation", "CREATE networking.k8s.io/networkpolicies shop open", "{spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}}", ""),
	caught("every pod by what none has", "network-isolation", "CREATE networking.k8s.io/networkpolicies shop open", "{spec: {podSelector: {matchExpressions: [{key: nope, operator: DoesNotExist}]}, ingress: [{}]}}", ""),
	passes("one network", "network-isolation", "CREATE networking.k8s.io/networkpolicies shop in", "{spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}}", ""),
	passes("some pods by what they have", "network-isolation", "CREATE networking.k8s.io/networkpolicies shop in", "{spec: {podSelector: {matchExpressions: [{key: app, operator: Exists}]}, ingress: [{}]}}", ""),
	passes("closing a namespace", "network-isolation", "CREATE networking.k8s.io/networkpolicies shop deny", "{spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}", ""),
	passes("an application's own policy", "network-isolation", "CREATE networking.k8s.io/networkpolicies shop web", "{spec: {podSelector: {matchLabels: {app: web}}, ingress: [{ports: [{port: 80}]}]}}", ""),
	passes("deleting an application's own policy", "network-isolation", "DELETE networking.k8s.io/networkpolicies shop web", "", "{spec: {podSelector: {matchLabels: {app: web}}}}"),
	passes("letting the ingress controller in to every pod", "network-isolation", "CREATE networking.k8s.io/networkpolicies shop in", "{spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {a: b}}}]}]}}", ""),
	passes("the label of a policy for every pod", "network-isolation", "UPDATE networking.k8s.io/networkpolicies shop deny", "{metadata: {labels: {a: b}}, spec: {podSelector: {}}}", "{spec: {podSelector: {}}}"),

	caught("a load balancer", "service-exposure", "CREATE core/services shop web", "{spec: {type: LoadBalancer}}", ""),
	caught("a port on every node", "service-exposure", "UPDATE core/services shop web", "{spec: {type: NodePort}}", "{spec: {type: ClusterIP}}"),
	caught("a name that leads outside", "service-exposure", "UPDATE core/services shop db", "{spec: {type: ExternalName, externalName: evil.example}}", "{spec: {type: ExternalName, externalName: db.example}}"),
	caught("an address that isn't the service's own", "service-exposure", "UPDATE core/services shop web", "{spec: {type: ClusterIP, externalIPs: [192.0.2.1, 192.0.2.2]}}", "{spec: {type: ClusterIP, externalIPs: [192.0.2.1]}}"),
	caught("a load balancer that is opened further", "service-exposure", "UPDATE core/services shop web", "{spec: {type: LoadBalancer}}", "{spec: {type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0/24]}}"),
	passes("a service inside the cluster", "service-exposure", "CREATE core/services shop web", "{spec: {type: ClusterIP, selector: {a: b}}}", ""),
	passes("another port of a load balancer", "service-exposure", "UPDATE core/services shop web", "{spec: {type: LoadBalancer, ports: [{port: 81}]}}", "{spec: {type: LoadBalancer, ports: [{port: 80}]}}"),
	passes("a load balancer that goes back inside", "service-exposure", "UPDATE core/services shop web", "{spec: {type: ClusterIP}}", "{spec: {type: LoadBalancer}}"),

	caught("endpoints by hand", "endpoints", "CREATE core/endpoints shop web", "{subsets: [{addresses: [{ip: 192.0.2.1}]}]}", ""),
	caught("a slice of endpoints by hand", "endpoints", "UPDATE discovery.k8s.io/endpointslices shop web-1", "{endpoints: null}", "{endpoints: []}"),
	passes("endpoints that are deleted come back", "endpoints", "DELETE discovery.k8s.io/endpointslices shop web-1", "", "{}"),
	passes("the service that has endpoints", "endpoints", "UPDATE core/services shop web", "{spec: {selector: {a: c}}}", "{spec: {selector: {a: b}}}"),

	caught("a snippet of the ingress controller's configuration", "ingress-snippet", "CREATE networking.k8s.io/ingresses shop web", "{metadata: {annotations: {nginx.ingress.kubernetes.io/configuration-snippet: 'x;'}}}", ""),
	caught("another snippet", "ingress-snippet", "UPDATE networking.k8s.io/ingresses shop web", "{metadata: {annotations: {nginx.org/server-snippets: 'y;'}}}", "{metadata: {annotations: {nginx.org/server-snippets: 'x;'}}}"),
	passes("an ingress", "ingress-snippet", "CREATE networking.k8s.io/ingresses shop web", "{metadata: {annotations: {nginx.ingress.kubernetes.io/rewrite-target: /}}}", ""),
	passes("an ingress that keeps its snippet", "ingress-snippet", "UPDATE networking.k8s.io/ingresses shop web", "{metadata: {annotations: {nginx.org/server-snippets: 'x;'}, labels: {a: b}}}", "{metadata: {annotations: {nginx.org/server-snippets: 'x;'}}}"),

	caught("a pod's status", "status-write", "UPDATE core/pods/status shop web-0", "{status: {phase: Running}}", "{status: {}}"),
	caught("the status of a kind of one's own", "status-write", "UPDATE example.com/things/status shop a", "{status: {ready: true}}", "{}"),
	passes("the object itself", "status-write", "UPDATE example.com/things shop a", "{spec: {size: 2}}", "{spec: {size: 1}}"),

	caught("a storage class", "cluster-settings", "CREATE storage.k8s.io/storageclasses - fast", "{}", ""),
	caught("a priority class", "cluster-settings", "DELETE scheduling.k8s.io/priorityclasses - high", "", "{}"),
	caught("a runtime class", "cluster-settings", "CREATE node.k8s.io/runtimeclasses - runc", "{}", ""),
	caught("a flow schema", "cluster-settings", "UPDATE flowcontrol.apiserver.k8s.io/flowschemas - all", "{}", "{}"),
	caught("an ingress class", "cluster-settings", "DELETE networking.k8s.io/ingressclasses - nginx", "", "{}"),
	caught("a device class", "cluster-settings", "CREATE resource.k8s.io/deviceclasses - gpu", "{}", ""),
	caught("a gateway class", "cluster-settings", "CREATE gateway.networking.k8s.io/gatewayclasses - g", "{}", ""),
	caught("a snapshot class", "cluster-settings", "DELETE snapshot.storage.k8s.io/volumesnapshotclasses - s", "", "{}"),
	passes("an ingress of that class", "cluster-settings", "CREATE networking.k8s.io/ingresses shop web", "{spec: {ingressClassName: nginx}}", ""),
	passes("a claim of that device class", "cluster-settings", "CREATE resource.k8s.io/resourceclaims shop gpu", "{spec: {}}", ""),
	passes("a route of that gateway class", "cluster-settings", "CREATE gateway.networking.k8s.io/httproutes shop web", "{}", ""),

	caught("an exception from Kyverno's policies", "cluster-policy", "CREATE kyverno.io/policyexceptions shop e", "{}", ""),
	caught("a constraint of Gatekeeper", "cluster-policy", "DELETE constraints.gatekeeper.sh/k8srequiredlabels - l", "", "{}"),
	caught("the network policy of the cluster", "cluster-policy", "DELETE policy.networking.k8s.io/adminnetworkpolicies - a", "", "{}"),
	caught("Cilium's network policy for the cluster", "cluster-policy", "UPDATE cilium.io/ciliumclusterwidenetworkpolicies - a", "{}", "{}"),
	caught("Calico's network policy for the cluster", "cluster-policy", "UPDATE projectcalico.org/globalnetworkpolicies - a", "{}", "{}"),
	passes("a report of policies", "cluster-policy", "CREATE wgpolicyk8s.io/policyreports shop r", "{}", ""),
	passes("Cilium's network policy for a namespace", "cluster-policy", "CREATE cilium.io/ciliumnetworkpolicies shop web", "{}", ""),

	caught("an application that a controller deploys", "gitops", "CREATE argoproj.io/applications argocd shop", "{spec: {source: {repoURL: x}}}", ""),
	caught("a source that a controller deploys from", "gitops", "UPDATE source.toolkit.fluxcd.io/gitrepositories flux-system shop", "{spec: {url: b}}", "{spec: {url: a}}"),
	caught("a deployment of manifests that stand in the request", "gitops", "UPDATE argoproj.io/applications argocd shop", "{spec: {}, operation: {sync: {manifests: [x]}}}", "{spec: {}}"),
	passes("asking a controller to look again", "gitops", "UPDATE kustomize.toolkit.fluxcd.io/kustomizations flux-system shop", "{metadata: {annotations: {reconcile.fluxcd.io/requestedAt: x}}, spec: {path: a}}", "{spec: {path: a}}"),
	passes("a workflow", "gitops", "CREATE argoproj.io/workflows shop w", "{spec: {}}", ""),

	caught("a role binding", "rbac", "CREATE rbac.authorization.k8s.io/rolebindings shop b", "{}", ""),
	passes("asking for one's own rights", "rbac", "CREATE authorization.k8s.io/selfsubjectaccessreviews -", "{}", ""),

	caught("a service account", "service-account", "CREATE core/serviceaccounts shop b", "{}", ""),
	passesTo("service-account-token", passes("its token is denied", "service-account", "CREATE core/serviceaccounts/token shop b", "{}", "")),
	caught("a service account's token", "service-account-token", "CREATE core/serviceaccounts/token shop b", "{}", ""),
	passesTo("service-account", passes("the service account itself is held", "service-account-token", "UPDATE core/serviceaccounts shop b", "{}", "{}")),

	caught("a certificate request", "certificate-request", "CREATE certificates.k8s.io/certificatesigningrequests - b", "{}", ""),
	caught("the approval of a certificate request", "certificate-request", "UPDATE certificates.k8s.io/certificatesigningrequests/approval - b", "{}", "{}"),
	caught("who the cluster trusts", "certificate-request", "CREATE certificates.k8s.io/clustertrustbundles - b", "{}", ""),
	passes("cert-manager's certificate", "certificate-request", "CREATE cert-manager.io/certificates shop web", "{}", ""),

	caught("a webhook configuration", "webhook-registration", "CREATE admissionregistration.k8s.io/mutatingwebhookconfigurations - b", "{}", ""),
	caught("an API service", "webhook-registration", "UPDATE apiregistration.k8s.io/apiservices - b", "{}", "{}"),
	passes("the service behind it", "webhook-registration", "CREATE core/services shop hook", "{spec: {selector: {a: b}}}", ""),

	caught("asking for a grant", "grant", "CREATE tipstaff.dev/grants - g", "{spec: {clusterRole: edit}}", ""),
	passes("a kind of that name in another group", "grant", "CREATE example.com/grants - g", "{spec: {clusterRole: edit}}", ""),

	caught("a Secret", "secret-write", "UPDATE core/secrets shop s", "{kind: Secret}", "{kind: Secret}"),
	caught("a Secret named like a release of helm", "secret-write", "CREATE core/secrets shop sh.helm.release.v1.app.v1", "{type: Opaque}", ""),
	caught("a Secret of helm's type under another name", "secret-write", "CREATE core/secrets shop db", helmRelease, ""),
	caught("a release of helm that becomes something else", "secret-write", "UPDATE core/secrets shop sh.helm.release.v1.app.v1", "{type: kubernetes.io/service-account-token}", helmRelease),
	caught("a Secret that becomes a release of helm", "secret-write", "UPDATE core/secrets shop sh.helm.release.v1.app.v1", helmRelease, "{type: Opaque}"),
	caught("releases of helm that are deleted all at once", "secret-write", "DELETE core/secrets shop", "", helmRelease),
	passes("a release of helm", "secret-write", "CREATE core/secrets shop sh.helm.release.v1.app.v1", helmRelease, ""),
	passes("a release of helm that is superseded", "secret-write", "UPDATE core/secrets shop sh.helm.release.v1.app.v1", helmRelease, helmRelease),
	passes("a release of helm that is uninstalled", "secret-write", "DELETE core/secrets shop sh.helm.release.v1.app.v1", "", helmRelease),
	passes("a config map", "secret-write", "UPDATE core/configmaps shop s", "{}", "{}"),

	caught("a ConfigMap in kube-system", "system-namespaces", "UPDATE core/configmaps kube-system s", "{}", "{}"),
	caught("what everybody may read of the cluster", "system-namespaces", "UPDATE core/configmaps kube-public cluster-info", "{}", "{}"),
	caught("a node's sign of life", "system-namespaces", "UPDATE coordination.k8s.io/leases kube-node-lease n1", "{}", "{}"),
	caught("anything in tipstaff's namespace", "system-namespaces", "CREATE core/pods tipstaff-system s", "{}", ""),
	caught("deleting kube-system is denied, not held", "system-namespaces", "DELETE core/namespaces kube-system kube-system", "", "{}"),
	passes("a namespace that is named alike", "system-namespaces", "UPDATE core/configmaps kube-systems s", "{}", "{}"),
}

// Each shipped rule catches what it is for, and lets pass what is near it.
func TestDefaultRules(t *testing.T) {
	t.Parallel()
	set, err := NewRuleSet(Config{})
	if err != nil {
		t.Fatal(err)
	}
	rules, err := DefaultRules()
	if err != nil {
		t.Fatal(err)
	}
	verdicts := map[string]Verdict{allows: Allow}
	for _, r := range rules {
		verdicts[r.Name] = r.Verdict
		for _, g := range r.Approvers {
			if g != DefaultApprovers {
				t.Errorf("rule %q names group %q", r.Name, g)
			}
		}
		if r.Message == "" {
			t.Errorf("rule %q says nothing to those who decide", r.Name)
		}
	}
	type seen struct{ caught, near int }
	cases := map[string]seen{}
	for _, tt := range ruleCases {
		n := cases[tt.rule]
		if tt.near {
			n.near++
		} else {
			n.caught++
		}
		cases[tt.rule] = n
		if _, ok := verdicts[tt.rule]; !ok {
			t.Errorf("%s: there is no rule %q", tt.name, tt.rule)
		}
		t.Run(tt.rule+"/"+tt.name, func(t *testing.T) {
			t.Parallel()
			j, err := set.Judge(t.Context(), tt.request(t), testAgent)
			if err != nil {
				t.Fatal(err)
			}
			matched := slices.ContainsFunc(j.Matched, func(m RuleMatch) bool { return m.Rule == tt.rule })
			if slices.ContainsFunc(j.Matched, func(m RuleMatch) bool { return m.Failed }) {
				t.Errorf("a rule fails: %+v", j)
			}
			if tt.near {
				if matched || j.Verdict != verdicts[tt.by] || tt.by != allows && j.Rule != tt.by {
					t.Errorf("got %+v, want it past %q and decided by %q", j, tt.rule, tt.by)
				}
				return
			}
			if !matched || strictness(j.Verdict) < strictness(verdicts[tt.rule]) {
				t.Errorf("got %+v, want %q to match", j, tt.rule)
			}
		})
	}
	for _, r := range rules {
		if n := cases[r.Name]; n.caught == 0 || n.near == 0 {
			t.Errorf("rule %q has %d tests for what it catches and %d for what is near", r.Name, n.caught, n.near)
		}
	}
}

// oddObjects are legal: fields missing, null where Kubernetes writes them so, empty.
var oddObjects = []string{
	"", "{}", "{metadata: null, spec: null, status: null}", "{metadata: {}, spec: {}}",
	"{metadata: {labels: {}, annotations: {}, finalizers: [], ownerReferences: []}, spec: {}}",
	"{spec: {containers: null, template: null, jobTemplate: null}, template: null}",
	"{spec: {template: {metadata: {creationTimestamp: null}, spec: {containers: null}}}}",
	"{spec: {template: {spec: {containers: [], initContainers: [], volumes: [], tolerations: []}}}}",
	"{spec: {template: {spec: {containers: [{}], volumes: [{}], tolerations: [{}]}}}}",
	"{spec: {containers: [{securityContext: {}}, {securityContext: {capabilities: {}}, ports: [{}]}], securityContext: {}}}",
	"{spec: {jobTemplate: {}}, template: {}}", "{spec: {jobTemplate: {spec: {template: {}}}}}",
	"{spec: {replicas: 3}}", "{spec: {podSelector: {}, ingress: [{}], egress: [{}]}}", "{spec: {podSelector: null}}",
	"{endpoints: null}", "{subsets: []}", "{rules: null, roleRef: {}}", "{kind: Scale, metadata: {name: a, creationTimestamp: null}, spec: {}, status: {replicas: 0}}",
	"{kind: Eviction, deleteOptions: {}}", "{kind: PodExecOptions, command: null}", "{type: '', data: null, immutable: null}",
	"{operation: null, parameters: {a: 1}}",
}

// oddCustom are what a CRD without a schema takes beside.
var oddCustom = []string{"{spec: text}", "{spec: [1, 2]}", "{spec: 7}", "{spec: {replicas: many}, status: false}"}

// A rule that fails counts as its verdict, so an odd object would be held for nothing.
func TestNoDefaultRuleFailsOnOddObjects(t *testing.T) {
	t.Parallel()
	loaded, err := DefaultRules()
	if err != nil {
		t.Fatal(err)
	}
	rules, errs := compileAll(loaded, field.NewPath("rules"))
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	type line struct{ operation, resource string }
	lines := map[line]bool{}
	for _, c := range ruleCases {
		f := strings.Fields(c.req)
		for _, op := range []string{"CREATE", "UPDATE", "DELETE"} {
			lines[line{op, f[1]}] = true
		}
		lines[line{f[0], f[1]}] = true
	}
	x := newIndex(rules)
	shaped := map[shape]map[string]*rule{}
	inShape := func(req *admissionv1.AdmissionRequest) map[string]*rule {
		s := shapeOf(req)
		if shaped[s] == nil {
			shaped[s] = map[string]*rule{}
			for _, r := range s.rules(x.about(s.resource)) {
				shaped[s][r.Name] = r
			}
		}
		return shaped[s]
	}
	judged := 0
	for l := range lines {
		objects := oddObjects
		if group, _, _ := strings.Cut(l.resource, "/"); strings.Contains(group, ".") && !strings.HasSuffix(group, ".k8s.io") && !strings.HasSuffix(l.resource, "/scale") {
			objects = slices.Concat(oddObjects, oddCustom)
		}
		for i, object := range objects {
			for k, old := range objects {
				if i != k && i > 3 && k > 3 {
					continue // each with itself and with the emptiest is enough
				}
				if l.operation != "UPDATE" && object != "" && old != "" || l.operation == "UPDATE" && (object == "" || old == "") {
					continue
				}
				for _, options := range []string{"", "{}", now} {
					c := ruleCase{req: l.operation + " " + l.resource + " shop a", object: object, old: old, options: options}
					r, err := open(c.request(t), testAgent)
					if err != nil {
						t.Fatal(err)
					}
					e := newEvaluation(t.Context(), r, nil, nil)
					settled := inShape(r.req)
					for _, rule := range x.candidates(r.req) {
						judged++
						is, err := e.matches(rule)
						if here := settled[rule.Name]; err == nil && here != nil {
							if same, hereErr := e.matches(here); same != is || hereErr != nil {
								t.Fatalf("rule %q says %t on %s of %q, was %q, options %q, and %t (%v) where it is settled", rule.Name, is, c.req, object, old, options, same, hereErr)
							}
						} else if is {
							t.Fatalf("rule %q is left out for %s though it matches", rule.Name, c.req)
						}
						if err != nil {
							t.Fatalf("rule %q fails on %s of %q, was %q, options %q: %v", rule.Name, c.req, object, old, options, err)
						}
					}
					if l.operation != "DELETE" {
						break // rules look at the options of deletions only
					}
				}
			}
		}
	}
	if judged < 10000 {
		t.Errorf("only %d rules were evaluated", judged)
	}
}

// The index can skip a shipped rule on what it is not about.
func TestDefaultRulesAreBounded(t *testing.T) {
	t.Parallel()
	loaded, err := DefaultRules()
	if err != nil {
		t.Fatal(err)
	}
	rules, errs := compileAll(loaded, field.NewPath("rules"))
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	everywhere := []string{
		"delete-collection", "finalizers-and-owners", // about any kind
		"scale-to-zero", "scale-far", "exec", "proxy", "status-write", // about a subresource of any kind
		"system-namespaces", // about any kind in a namespace
	}
	for _, r := range rules {
		bounded := r.reach.resources != nil || r.reach.groups != nil
		if bounded == slices.Contains(everywhere, r.Name) {
			t.Errorf("rule %q is bounded to groups or resources: %t", r.Name, bounded)
		}
	}
}

func TestEveryDefaultRuleIsDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/rules.md")
	if err != nil {
		t.Fatal(err)
	}
	rules, err := DefaultRules()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		if row := "| `" + r.Name + "` | " + string(r.Verdict) + " | "; strings.Count(string(page), "\n"+row) != 1 {
			t.Errorf("docs/rules.md has no single row that starts with %q", row)
		}
	}
	if n := strings.Count(string(manifests.DefaultRules), "\n- name: "); n != len(rules) {
		t.Errorf("%d names in the file, %d rules", n, len(rules))
	}
}

# What an agent's Python program does: read, list, watch, change. It prints what it saw as JSON.
import json
import sys

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException

namespace = sys.argv[1]
config.load_kube_config()
core = client.CoreV1Api()
seen = {}

secret = core.read_namespaced_secret("real", namespace)
seen["read"] = secret.data
seen["listed"] = [s.data for s in core.list_namespaced_secret(namespace).items]
seen["paged"] = 0
page = None
while True:
    part = core.list_namespaced_secret(namespace, limit=1, _continue=page)
    seen["paged"] += len(part.items)
    page = part.metadata._continue
    if not page:
        break
seen["config"] = core.read_namespaced_config_map("shown", namespace).data

secret.metadata.labels = {"python": "replaced"}
seen["replaced"] = core.replace_namespaced_secret("real", namespace, secret).metadata.labels
seen["patched"] = core.patch_namespaced_secret("real", namespace, {"metadata": {"annotations": {"python": "patched"}}}).metadata.annotations

stream = watch.Watch()
seen["watched"] = []
for event in stream.stream(core.list_namespaced_secret, namespace, timeout_seconds=30):
    seen["watched"].append([event["type"], event["object"].data])
    if len(seen["watched"]) == 2:
        stream.stop()

try:
    core.read_namespaced_secret("missing", namespace)
except ApiException as e:
    seen["missing"] = e.status
seen["groups"] = sorted(g.name for g in client.ApisApi().get_api_versions().groups)
json.dump(seen, sys.stdout)

#!/usr/bin/env bash
# What the tests that run pods need: a kubelet, built at the version that go.mod pins into ../bin, and
# Debian's containerd, runc, static busybox and asciinema. With --can it only says whether pods can run here: it
# prints why not, and fails.
set -euo pipefail
cd "$(dirname "$0")"

if [ "${1:-}" = --can ]; then
	[ -z "${TIPSTAFF_NO_NODE:-}" ] || { echo "TIPSTAFF_NO_NODE is set" && exit 1; }
	[ "$(uname -sm)" = "Linux x86_64" ] || { echo "a node is tried on Linux x86_64 only" && exit 1; }
	[ "$(id -u)" = 0 ] || { echo "a kubelet and its containers need root (sudo make test runs them)" && exit 1; }
	# Namespaces, mounts and control groups: what a container without privileges hasn't.
	unshare --mount --pid --fork sh -c '
		mount -t tmpfs none /run
		for group in /sys/fs/cgroup/memory /sys/fs/cgroup; do
			[ -e "$group/cgroup.procs" ] && mkdir "$group/tipstaff-probe-$$" && rmdir "$group/tipstaff-probe-$$" && exit 0
		done
		exit 1' >/dev/null 2>&1 || { echo "this machine lets nobody make namespaces, mounts or control groups" && exit 1; }
	exit 0
fi

missing=()
command -v containerd >/dev/null || missing+=(containerd)
command -v runc >/dev/null || missing+=(runc)
[ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1 || missing+=(busybox-static)
command -v script >/dev/null || missing+=(bsdutils)
command -v asciinema >/dev/null || missing+=(asciinema)
if [ ${#missing[@]} -gt 0 ]; then
	command -v apt-get >/dev/null || { echo "missing: ${missing[*]}: install them, then run make again" >&2 && exit 1; }
	echo "==> installing ${missing[*]} (apt), for the tests that run pods"
	log=$(mktemp)
	{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 ||
		{ echo "cannot install ${missing[*]}: see $log, or install them by hand" >&2 && exit 1; }
	rm -f "$log"
fi

bin=$(cd .. && pwd)/bin
kube=$(sed -n 's/^\tk8s\.io\/kubernetes \(v[0-9.]*\).*/\1/p' go.mod)
want=$(cat go.mod go.sum node.sh | sha256sum | cut -d' ' -f1)
stamp=$bin/.node.stamp
if [ -x "$bin/kubelet" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then
	exit 0
fi
echo "==> building a kubelet $kube from source (the first time a minute or two more than the control plane took)"
mkdir -p "$bin"
rm -f "$stamp"
minor=${kube#v1.}
v=k8s.io/component-base/version
CGO_ENABLED=0 go build -trimpath -o "$bin/kubelet" \
	-ldflags "-s -w -X $v.gitVersion=$kube -X $v.gitMajor=1 -X $v.gitMinor=${minor%%.*} -X $v.gitTreeState=clean" k8s.io/kubernetes/cmd/kubelet ||
	{ echo "tools: cannot build kubelet: see the lines above" >&2 && exit 1; }
echo "$want" >"$stamp"

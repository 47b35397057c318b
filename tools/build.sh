#!/usr/bin/env bash
# Builds the real parts that tests, demo and `make dev` run: kube-apiserver, kube-controller-manager,
# kubectl and etcd at the versions that go.mod pins, into ../bin. Nothing is rebuilt while the pins stand.
set -euo pipefail
cd "$(dirname "$0")"
bin=$(cd .. && pwd)/bin
mkdir -p "$bin"

kube=$(sed -n 's/^\tk8s\.io\/kubernetes \(v[0-9.]*\).*/\1/p' go.mod)
want=$(cat go.mod go.sum build.sh | sha256sum | cut -d' ' -f1)-$(go env GOOS GOARCH | paste -sd-)
stamp=$bin/.tools.stamp
names=(etcd kube-apiserver kube-controller-manager kubectl)
missing=0
for n in "${names[@]}"; do [ -x "$bin/$n" ] || missing=1; done
if [ "$missing" = 0 ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then
	exit 0
fi

echo "==> building a real control plane (etcd, kube-apiserver, kube-controller-manager, kubectl $kube) from source"
echo "    the first time this compiles all of Kubernetes: about ten minutes on 2 cores; after that it takes none"
exec 9>"$bin/.tools.lock"
if command -v flock >/dev/null; then flock 9; fi
rm -f "$stamp"

fail() {
	echo "tools: $1" >&2
	exit 1
}
if ! go mod download 2>"$bin/.tools.log"; then
	head -1 "$bin/.tools.log" >&2
	fail "cannot download the Go modules: is the Go module proxy reachable? (GOPROXY=$(go env GOPROXY)); run make again when it is"
fi

# The version that Kubernetes' own release build stamps, so that clients see a 1.37 server.
minor=${kube#v1.}
minor=${minor%%.*}
v=k8s.io/component-base/version
ldflags="-s -w -X $v.gitVersion=$kube -X $v.gitMajor=1 -X $v.gitMinor=$minor -X $v.gitTreeState=clean"
build() {
	local name=$1 pkg=$2 began=$SECONDS
	echo "    $name …"
	CGO_ENABLED=0 go build -trimpath -ldflags "$ldflags" -o "$bin/$name" "$pkg" ||
		fail "cannot build $name: see the lines above (disk full? $(df -h "$bin" | awk 'NR==2{print $4}') free here)"
	echo "    $name: $((SECONDS - began)) s"
}
build etcd go.etcd.io/etcd/server/v3
build kubectl k8s.io/kubernetes/cmd/kubectl
build kube-controller-manager k8s.io/kubernetes/cmd/kube-controller-manager
build kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
echo "$want" >"$stamp"

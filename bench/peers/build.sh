#!/usr/bin/env bash
# Builds the peers of the benches, Gatekeeper, Kyverno and kube-rbac-proxy, from their Go modules into ../../bin/peers. A
# module for each: their pins of Kubernetes differ. Nothing is rebuilt while they stand.
set -euo pipefail
cd "$(dirname "$0")"
bin=$(cd ../.. && pwd)/bin/peers
mkdir -p "$bin"

for peer in gatekeeper kyverno kube-rbac-proxy; do
	want=$(cat "$peer/go.mod" "$peer/go.sum" build.sh | sha256sum | cut -d' ' -f1)-$(go env GOOS GOARCH | paste -sd-)
	stamp=$bin/.$peer.stamp
	if [ -x "$bin/$peer" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then
		continue
	fi
	echo "==> building $peer from source (the first time about three minutes on 2 cores)"
	rm -f "$stamp"
	package=$(cd "$peer" && go list tool)
	if ! (cd "$peer" && CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$bin/$peer" "$package"); then
		echo "bench: cannot build $peer: is the Go module proxy reachable? (GOPROXY=$(go env GOPROXY)); run make bench again when it is" >&2
		exit 1
	fi
	echo "$want" >"$stamp"
done

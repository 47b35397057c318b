#!/usr/bin/env bash
# Builds helm at the version that go.mod pins into ../../bin, for the end-to-end tests. A module of its
# own: helm's dependencies would move the pins of Kubernetes in ../go.mod. Nothing is rebuilt while they stand.
set -euo pipefail
cd "$(dirname "$0")"
bin=$(cd ../.. && pwd)/bin
mkdir -p "$bin"

want=$(cat go.mod go.sum build.sh | sha256sum | cut -d' ' -f1)-$(go env GOOS GOARCH | paste -sd-)
stamp=$bin/.helm.stamp
if [ -x "$bin/helm" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then
	exit 0
fi
echo "==> building helm from source (the first time two to three minutes on 2 cores)"
rm -f "$stamp"
if ! CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$bin/helm" helm.sh/helm/v4/cmd/helm; then
	echo "tools: cannot build helm: is the Go module proxy reachable? (GOPROXY=$(go env GOPROXY)); run make again when it is" >&2
	exit 1
fi
echo "$want" >"$stamp"

#!/usr/bin/env bash
# Says in one line what is missing before minutes are spent. What Debian has is installed where we may.
# With --tests that is what the end-to-end tests need as well.
set -euo pipefail

fail() {
	echo "$1" >&2
	exit 1
}
command -v go >/dev/null || fail "Go is missing: install Go 1.26 or newer (https://go.dev/dl), then run make again"
minor=$(go env GOVERSION | sed -E 's/^go1\.([0-9]+).*/\1/')
[ "$minor" -ge 26 ] || fail "Go 1.26 or newer is needed, here is $(go env GOVERSION)"

missing=()
command -v gcc >/dev/null || missing+=(gcc libc6-dev) # the race detector
command -v npm >/dev/null || missing+=(npm)           # brings the ClickHouse engine
command -v git >/dev/null || missing+=(git)
# A client that agents use, which is tested: Debian's, for Debian's Python.
if [ "${1:-}" = --tests ] && ! /usr/bin/python3 -c 'import kubernetes' 2>/dev/null; then missing+=(python3-kubernetes); fi
if [ ${#missing[@]} -gt 0 ]; then
	command -v apt-get >/dev/null || fail "missing: ${missing[*]}: install them, then run make again"
	sudo=
	[ "$(id -u)" = 0 ] || sudo=sudo
	echo "==> installing ${missing[*]} (apt)"
	{ $sudo apt-get update && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >/tmp/tipstaff-apt.$$.log 2>&1 ||
		fail "cannot install ${missing[*]}: see /tmp/tipstaff-apt.$$.log, or install them by hand"
	rm -f /tmp/tipstaff-apt.$$.log
fi

# The modules come before the build, so that a network that isn't there is told as that.
if ! out=$(cd "$(dirname "$0")/.." && go mod download 2>&1); then
	echo "$out" | head -1 >&2
	fail "cannot download the Go modules: is the Go module proxy reachable (GOPROXY=$(go env GOPROXY)), and is there room on the disk? Then run make again"
fi

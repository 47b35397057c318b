#!/usr/bin/env bash
# Brings libchdb, the ClickHouse engine as a library, at the version and integrity that package-lock.json
# pins. Does nothing while the lock stands.
set -euo pipefail
cd "$(dirname "$0")"
lib=node_modules/@chdb/lib-linux-x64-gnu/libchdb.so
stamp=node_modules/.tipstaff.stamp

want=$(cat package.json package-lock.json | sha256sum | cut -d' ' -f1)
if [ -f "$lib" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then
	exit 0
fi

fail() {
	echo "chdb: $1" >&2
	exit 1
}
command -v npm >/dev/null || fail "npm is missing: apt-get install npm, then run make again"
[ "$(uname -sm)" = "Linux x86_64" ] || fail "libchdb is pinned for Linux on x86_64 only, this is $(uname -sm)"

echo "==> installing the ClickHouse engine (libchdb, by npm: about 150 MB to fetch, 550 MB on disk)"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >"$log" 2>&1; then
	if grep -q ENOSPC "$log"; then
		fail "the disk is full ($(df -h . | awk 'NR==2{print $4}') free here, 1 GB is needed): make room, then run make again"
	elif grep -qE 'ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ERR_SOCKET_TIMEOUT|network' "$log"; then
		fail "the npm registry ($(npm config get registry)) cannot be reached: run make again when it can"
	elif grep -q EINTEGRITY "$log"; then
		fail "what the npm registry sent is not what package-lock.json pins (integrity): not installed"
	fi
	sed -n 1,5p "$log" >&2
	fail "npm ci failed: see the lines above"
fi
[ -f "$lib" ] || fail "npm ci worked, but $lib is not there: is this a glibc system?"
echo "$want" >"$stamp" || fail "the disk is full ($(df -h . | awk 'NR==2{print $4}') free here, 1 GB is needed): make room, then run make again"
echo "    libchdb $(sed -n 's/.*"@chdb\/lib-linux-x64-gnu": "\(.*\)".*/\1/p' package.json) is in tools/chdb/$lib"

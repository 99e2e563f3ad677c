#!/usr/bin/env bash
# Configures and builds the programs (not the tests) into build/cpu/bin. Only what changed.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -f build/cpu/build.ninja ] || cmake --preset cpu >/dev/null
# Quiet unless it fails (ninja's own --quiet crashes in Debian 12's version).
log=build/cpu/build.log
cmake --build build/cpu --target shardline shardline-coordinator shardline-worker >"$log" || {
  cat "$log"
  exit 1
}

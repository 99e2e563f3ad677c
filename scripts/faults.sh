#!/usr/bin/env bash
# Kills, stops and cuts off ranks of two SmolLM2 replicas in every phase of their life, under load,
# and prints a table: fault, phase, runs, time until it was found, requests, lost requests.
# Options: --runs N (of each; 3 makes more than 500 requests), --seed N, --faults NAME...
#
# With --restarts N as its first option: a coordinator with a journal is killed N times as well, while
# streams are read; --requests N, --rank-faults N (of each kind), --seed N.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x build/cpu/bin/shardline ] || scripts/build.sh
model=${SHARDLINE_SMOLLM2_GGUF:-$(scripts/fetch_smollm2.sh | tail -1)}
test=faults_test.py
[ "${1:-}" != --restarts ] || test=restarts_test.py
exec env SHARDLINE_BIN="$PWD/build/cpu/bin" SHARDLINE_SMOLLM2_GGUF="$model" \
  "${SHARDLINE_PYTHON:-python3}" "tests/e2e/$test" "$@"

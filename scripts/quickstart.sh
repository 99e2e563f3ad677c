#!/usr/bin/env bash
# One command from a bare machine to an answer: set-up, build, a real model, a cluster of a
# coordinator and two MPI ranks (tensor parallel), one streamed answer, an orderly stop.
#   scripts/quickstart.sh "What is the capital of France?"
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
prompt=${1:-What is the capital of France?}
bin=$root/build/cpu/bin

"$root/scripts/setup.sh"
echo "building ..."
"$root/scripts/build.sh"
model=$("$root/scripts/fetch_smollm2.sh")

scratch=$(mktemp -d)
mark=$(basename "$scratch")  # in the environment of every process of the cluster
cluster=

left_behind() {
  # Processes come and go while their environments are read.
  grep -lz "^SHARDLINE_QUICKSTART=$mark\$" /proc/[0-9]*/environ 2>/dev/null |
    sed 's|/proc/\([0-9]*\)/.*|\1|' || true
}

cleanup() {
  status=$?
  trap - EXIT INT TERM
  if [ -n "$cluster" ]; then
    kill -TERM "$cluster" 2>/dev/null || true
    wait "$cluster" 2>/dev/null || true
  fi
  rm -rf "$scratch"
  [ $status -eq 0 ] || echo "quickstart: failed with exit code $status" >&2
  exit $status
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

SHARDLINE_QUICKSTART=$mark "$bin/shardline" up "$model" --tensor-parallel-size 2 \
  --listen 127.0.0.1:0 >"$scratch/ready" &
cluster=$!
until grep -q '^ready' "$scratch/ready"; do
  if ! kill -0 "$cluster" 2>/dev/null; then  # it has said why on stderr
    status=0
    wait "$cluster" || status=$?
    cluster=
    exit $((status == 0 ? 7 : status))
  fi
  sleep 0.1
done
cat "$scratch/ready"
address=$(sed -n 's/^ready .*address=\([^ ]*\).*/\1/p' "$scratch/ready")

echo
echo "> $prompt"
"$bin/shardline" generate --address "$address" --chat --temperature 0 --max-tokens 200 --stats \
  -- "$prompt"
echo

kill -TERM "$cluster"
wait "$cluster"
cluster=
left=$(left_behind)
if [ -n "$left" ]; then
  echo "quickstart: processes were left behind:" $left >&2
  exit 1
fi
echo "stopped; no process is left behind"

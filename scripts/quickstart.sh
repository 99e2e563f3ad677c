#!/usr/bin/env bash
# One command from a bare machine to an answer: set-up, build, a real model, a cluster of a
# coordinator and two MPI ranks (tensor parallel), one streamed answer, an orderly stop.
#   scripts/quickstart.sh "What is the capital of France?"
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
prompt=${1:-What is the capital of France?}

"$root/scripts/setup.sh"
echo "building ..."
"$root/scripts/build.sh"
model=$("$root/scripts/fetch_smollm2.sh")

scratch=$(mktemp -d)
cluster=
stop() {
  status=$?
  trap - EXIT INT TERM
  if [ -n "$cluster" ]; then
    kill -TERM "$cluster" 2>/dev/null || true
    wait "$cluster" 2>/dev/null || true
  fi
  rm -rf "$scratch"
  exit $status
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

bin=$root/build/cpu/bin
"$bin/shardline" up "$model" --tensor-parallel-size 2 --listen 127.0.0.1:0 >"$scratch/ready" &
cluster=$!
until grep -q '^ready' "$scratch/ready" 2>/dev/null; do
  kill -0 "$cluster" 2>/dev/null || { wait "$cluster" || exit $?; exit 7; }
  sleep 0.1
done
cat "$scratch/ready"
address=$(sed -n 's/^ready .*address=\([^ ]*\).*/\1/p' "$scratch/ready")

echo
echo "> $prompt"
"$bin/shardline" generate --address "$address" --chat --temperature 0 --max-tokens 200 --stats -- "$prompt"
echo
kill -TERM "$cluster"
wait "$cluster"
cluster=
echo "stopped; no process is left behind"

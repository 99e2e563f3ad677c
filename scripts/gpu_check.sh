#!/usr/bin/env bash
# What a GPU is needed for, in one command of some minutes: tests, then benchmarks.
#   scripts/gpu_check.sh --collect DIR   copies programs and shared libraries of build/cuda, a small
#                                        model and this script to DIR, for a machine with a GPU
#   DIR/gpu_check.sh                     runs them there; needs the NVIDIA driver and nothing else
#   scripts/gpu_check.sh                 runs them from build/cuda
# Ends with exit code 1 if anything failed, and 3 without a GPU. What goes into docs/gpu-results.md is
# printed, and left in gpu-results.txt.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
programs=(gpu_ops_test gpu_bench shardline shardline-coordinator shardline-worker)

if [ "${1:-}" = --collect ]; then
  target=${2:?usage: scripts/gpu_check.sh --collect DIR}
  bin=$here/../build/cuda/bin
  mkdir -p "$target/lib"
  for program in "${programs[@]}"; do
    cp "$bin/$program" "$target/"
    # All but the driver's and the C library's own.
    ldd "$bin/$program" | awk '$3 ~ /^\// {print $3}' |
      grep -vE '/(libc|libm|libdl|libpthread|librt|libcuda)\.so' | xargs -r cp -Lnt "$target/lib" || true
  done
  git -C "$here" rev-parse --short HEAD >"$target/commit"
  model=$("$here/fetch_smollm2.sh")
  cp -L "$model" "$target/smollm2.gguf"
  cp "$here/gpu_check.sh" "$target/"
  du -sh "$target"
  exit
fi
[ $# -eq 0 ] || { echo "usage: gpu_check.sh [--collect DIR]" >&2; exit 2; }

if [ -x "$here/gpu_ops_test" ]; then
  bin=$here
  model=$here/smollm2.gguf
  commit=$(cat "$here/commit")
  export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
else
  bin=$here/../build/cuda/bin
  model=$("$here/fetch_smollm2.sh")
  commit=$(git -C "$here" rev-parse --short HEAD)
fi
if ! nvidia-smi -L >/dev/null 2>&1; then
  echo "not run: no GPU" >&2
  exit 3
fi
exec > >(tee gpu-results.txt) 2>&1
echo "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1), $(date -u +%F), commit $commit"
failed=()
run() {
  local begin=$SECONDS
  echo "== $1"
  shift
  "$@" || failed+=("$*")
  echo "== took $((SECONDS - begin)) s"
}

run "every op against the CPU" timeout 240 "$bin/gpu_ops_test" --gtest_brief=1
if command -v compute-sanitizer >/dev/null; then
  run "compute-sanitizer" timeout 120 compute-sanitizer --error-exitcode 9 \
    "$bin/gpu_ops_test" --gtest_brief=1 --gtest_filter='*Norms:*Rout*:*Experts*:*Answers*'
fi

# A rank on the GPU and two ranks on it as two hosts give the tokens of a rank on the CPU. Without
# mpirun: the coordinator introduces the ranks to each other.
answer() {  # answer DEVICE RANKS FLAG...
  local device=$1 ranks=$2 port=$((20000 + RANDOM % 20000)) pids=() rank
  shift 2
  "$bin/shardline-coordinator" "$model" --listen "127.0.0.1:$port" --dtype float32 "$@" \
    >"coordinator.$port.log" 2>&1 &
  pids+=($!)
  for ((rank = 0; rank < ranks; ++rank)); do
    if [ "$device" = cuda ]; then
      NCCL_HOSTID=rank$rank NCCL_SOCKET_IFNAME=lo "$bin/shardline-worker" --device cuda \
        --bootstrap coordinator --rank $rank --world-size "$ranks" --coordinator "127.0.0.1:$port" \
        >"rank$rank.$port.log" 2>&1 &
    else
      "$bin/shardline-worker" --device cpu --coordinator "127.0.0.1:$port" >"rank$rank.$port.log" 2>&1 &
    fi
    pids+=($!)
  done
  for _ in $(seq 600); do
    "$bin/shardline" status --address "127.0.0.1:$port" >/dev/null 2>&1 && break
    sleep 0.1
  done
  "$bin/shardline" generate --address "127.0.0.1:$port" --chat --temperature 0 --max-tokens 64 \
    --stats "Name three rivers." || tail -n 5 "rank0.$port.log"
  kill "${pids[0]}" 2>/dev/null || true
  wait "${pids[@]}" 2>/dev/null || true
}
same_tokens() {
  local expected got
  expected=$(answer cpu 1 2>/dev/null)
  for layout in "1" "2 --tensor-parallel-size 2" "2 --pipeline-parallel-size 2"; do
    # shellcheck disable=SC2086
    got=$(answer cuda $layout 2>stats.txt)
    echo "ranks and layout: $layout"
    cat stats.txt
    [ -n "$expected" ] && [ "$got" = "$expected" ] || { echo "expected: $expected"; echo "found: $got"; return 1; }
  done
}
run "SmolLM2 on one rank, TP=2 and PP=2 over NCCL: the CPU's tokens" same_tokens
run "benchmarks" timeout 240 "$bin/gpu_bench"

if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
echo "all passed in $SECONDS s"

#!/usr/bin/env bash
# What a GPU is needed for, in one command of some minutes: tests, then benchmarks.
#   scripts/gpu_check.sh --collect DIR   copies programs and shared libraries of build/cuda, a small
#                                        model and this script to DIR, for a machine with a GPU
#   DIR/gpu_check.sh                     runs them there; needs the NVIDIA driver and nothing else
# Ends with exit code 1 if anything failed, and 3 without a GPU. What belongs into
# docs/gpu-results.md is printed, and left in gpu-results.txt.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
prompt="Name three rivers."
# Models whose speed is measured with random weights, and the GB that they and their KV cache need.
shapes=(llama-2-7b:36 yi-34b:86 mixtral-8x7b:104)

# answer DEVICE RANKS FLAG...: what SmolLM2 says, by a coordinator with these flags and ranks on the
# device. On GPUs without mpirun: the coordinator introduces the ranks, who take themselves for hosts.
answer() {
  local device=$1 ranks=$2 port=$((20000 + RANDOM % 20000)) pids=() rank
  shift 2
  "$bin/shardline-coordinator" "$model" --listen "127.0.0.1:$port" --dtype float32 "$@" \
    >"$logs/coordinator.$port.log" 2>&1 &
  pids+=($!)
  for ((rank = 0; rank < ranks; ++rank)); do
    if [ "$device" = cuda ]; then
      NCCL_HOSTID=rank$rank NCCL_SOCKET_IFNAME=lo "$bin/shardline-worker" --device cuda \
        --bootstrap coordinator --rank $rank --world-size "$ranks" --ranks-on-host "$ranks" \
        --coordinator "127.0.0.1:$port" >"$logs/rank$rank.$port.log" 2>&1 &
    else
      "$bin/shardline-worker" --device cpu --coordinator "127.0.0.1:$port" \
        >"$logs/rank$rank.$port.log" 2>&1 &
    fi
    pids+=($!)
  done
  for _ in $(seq 900); do
    "$bin/shardline" status --address "127.0.0.1:$port" >/dev/null 2>&1 && break
    kill -0 "${pids[@]}" 2>/dev/null || break
    sleep 0.1
  done
  "$bin/shardline" generate --address "127.0.0.1:$port" --chat --temperature 0 --max-tokens 64 \
    --stats "$prompt" || tail -n 5 "$logs"/*."$port".log >&2
  kill "${pids[0]}" 2>/dev/null || true
  wait "${pids[@]}" 2>/dev/null || true
}

if [ "${1:-}" = --collect ]; then
  target=${2:?usage: scripts/gpu_check.sh --collect DIR}
  bin=$here/../build/cuda/bin
  logs=$(mktemp -d)
  trap 'rm -rf "$logs"' EXIT
  mkdir -p "$target/lib"
  for program in gpu_ops_test gpu_bench families_test model_bench shardline shardline-coordinator \
    shardline-worker; do
    cp "$bin/$program" "$target/"
    # All but the driver's and the C library's own.
    ldd "$bin/$program" | awk '$3 ~ /^\// {print $3}' |
      { grep -vE '/(libc|libm|libdl|libpthread|librt|libcuda)\.so' || true; } |
      xargs -r cp -Lut "$target/lib"
  done
  git -C "$here" rev-parse --short HEAD >"$target/commit"
  model=$("$here/fetch_smollm2.sh")
  cp -L "$model" "$target/smollm2.gguf"
  cp -r "$here/../tests/golden/families" "$target/"
  for shape in "${shapes[@]}"; do
    "${SHARDLINE_PYTHON:-python3}" "$here/make_checkpoint.py" --like "${shape%:*}" --config-only \
      "$target/${shape%:*}"
  done
  cp "$here/gpu_check.sh" "$target/"
  if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
  answer cpu 1 2>/dev/null >"$target/expected.txt"
  [ -s "$target/expected.txt" ] || { echo "the CPU gave no answer to compare with" >&2; exit 1; }
  du -sh "$target"
  exit
fi
if [ $# -gt 0 ] || [ ! -x "$here/gpu_ops_test" ]; then
  echo "usage: scripts/gpu_check.sh --collect DIR, then DIR/gpu_check.sh" >&2
  exit 2
fi

bin=$here
model=$here/smollm2.gguf
logs=$PWD
export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
if ! nvidia-smi -L >/dev/null 2>&1; then
  echo "not run: no GPU" >&2
  exit 3
fi
exec > >(tee gpu-results.txt) 2>&1
gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1)
echo "$gpu, $(date -u +%F), commit $(cat "$here/commit")"
failed=()
run() {
  local begin=$SECONDS
  echo "== $1"
  shift
  "$@" || failed+=("$*")
  echo "== took $((SECONDS - begin)) s"
}
same_tokens() {
  local found layout graphs
  for layout in "1" "2 --tensor-parallel-size 2" "2 --pipeline-parallel-size 2"; do
    for graphs in on off; do
      # shellcheck disable=SC2086
      found=$(SHARDLINE_CUDA_GRAPHS=$graphs answer cuda $layout 2>stats.txt)
      echo "ranks and layout: $layout, graphs $graphs"
      cat stats.txt
      [ "$found" = "$(cat "$here/expected.txt")" ] || { echo "found: $found"; return 1; }
    done
    # A capture that fails costs speed, not tokens: here it is a failure.
    if grep -h "are not recorded" "$logs"/rank*.log; then return 1; fi
  done
}

# All layers, or eight of them where memory is short of them.
model_speed() {
  local shape layers memory failed=0
  memory=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | head -n 1)
  for shape in "${shapes[@]}"; do
    layers=0
    [ "$memory" -ge $((${shape#*:} * 1000)) ] || layers=8
    echo "${shape%:*}, layers $layers (0: all)"
    timeout 60 "$bin/model_bench" "$here/${shape%:*}/config.json" --synthetic --layers $layers \
      --device cuda --dtype bfloat16 --prompt 1024 --batch 1,32 --repeats 2 || failed=1
  done
  echo "SmolLM2-135M, Q4_1"
  timeout 30 "$bin/model_bench" "$model" --device cuda --prompt 1024 --batch 1,32 || failed=1
  return $failed
}

run "every op against the CPU" timeout 200 "$bin/gpu_ops_test" --gtest_brief=1
if command -v compute-sanitizer >/dev/null; then
  run "compute-sanitizer" timeout 100 compute-sanitizer --error-exitcode 9 "$bin/gpu_ops_test" \
    --gtest_brief=1 --gtest_filter='*Norms:*Rout*:*Experts*:*Answers*:Dispatch*:*Step*:*Recording*'
fi
run "SmolLM2 on one rank, TP=2 and PP=2 over NCCL: the CPU's answer" same_tokens
run "every family's goldens, in float32 and bfloat16" env SHARDLINE_TEST_DEVICE=cuda \
  SHARDLINE_GOLDEN_FILES="$here" timeout 100 "$bin/families_test" --gtest_brief=1 \
  --gtest_filter='HuggingFace/*_TP1:Gguf/*_TP1:All/*'
run "speed of whole models beside their ceilings" model_speed
run "benchmarks" timeout 240 "$bin/gpu_bench"

if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
echo "all passed in $SECONDS s"

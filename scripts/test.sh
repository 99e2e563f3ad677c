#!/usr/bin/env bash
# One command from a bare machine to passed tests. Each stage is a preset of CMakePresets.json.
#   scripts/test.sh               all that must pass: cpu, fuzz and, with a CUDA toolkit, cuda
#   scripts/test.sh --quick       the optimised build only
#   scripts/test.sh STAGE ...     these stages, of cpu, cuda, asan, tsan and fuzz
set -euo pipefail
cd "$(dirname "$0")/.."
all=(cpu cuda asan tsan fuzz)
case ${1:-} in
  "")
    stages=(cpu fuzz)
    # Compiles and links; what it tests, it tests on the CPU, the kernels in emulation.
    if command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then stages+=(cuda); fi
    ;;
  --quick) stages=(cpu) ;;
  *) stages=("$@") ;;
esac
for stage in "${stages[@]}"; do
  [[ " ${all[*]} " = *" $stage "* ]] || {
    echo "usage: scripts/test.sh [--quick | STAGE ...], a STAGE being one of: ${all[*]}" >&2
    exit 2
  }
done

summary=()
stage=set-up
finish() {
  status=$?
  [ ${#summary[@]} -eq 0 ] || printf '%s\n' "${summary[@]}"
  if [ $status -eq 0 ]; then
    echo "all stages passed in $SECONDS s"
  else
    echo "stage $stage failed with exit code $status after $SECONDS s" >&2
  fi
}
trap finish EXIT

echo "== set-up"
scripts/setup.sh --dev
SHARDLINE_SMOLLM2_GGUF=$(scripts/fetch_smollm2.sh)
SHARDLINE_GEMMA3_GGUF=$(scripts/fetch_gemma3.sh)
export SHARDLINE_SMOLLM2_GGUF SHARDLINE_GEMMA3_GGUF
# Made anew when the requirements change, or its Python has gone.
if ! cmp -s tests/requirements.txt .venv/requirements.txt || ! .venv/bin/python -c "import grpc"; then
  rm -rf .venv
  python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
  cp tests/requirements.txt .venv/requirements.txt
fi
export SHARDLINE_PYTHON=$PWD/.venv/bin/python
if [ "$(id -u)" = 0 ]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

# Stages share what they compile alike, and so do clones: paths are kept relative to the clone.
export CMAKE_C_COMPILER_LAUNCHER=ccache CMAKE_CXX_COMPILER_LAUNCHER=ccache
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1

# gcc's ThreadSanitizer cannot place its shadow where the kernel randomises mmap by more bits.
fixed_layout=()
if [ "$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 0)" -gt 28 ]; then
  fixed_layout=(setarch "$(uname -m)" -R)
fi
summary+=("set-up: $SECONDS s")

for stage in "${stages[@]}"; do
  begin=$SECONDS
  echo "== $stage: configure and build"
  cmake --preset "$stage" >/dev/null
  targets=()
  # What differs from the CPU's build: the kernels, and what links them.
  [ "$stage" != cuda ] || targets=(--target shardline-worker gpu_ops_test gpu_bench emulation_test
    gpu_ops_emulated_test families_emulated_test decode_graphs_emulated_test
    families_test model_bench model_bench_emulated)
  cmake --build "build/$stage" "${targets[@]}" >"build/$stage/build.log" || { cat "build/$stage/build.log"; exit 1; }
  [ "$stage" != cuda ] || scripts/check_kernels.py "build/$stage"
  built=$SECONDS
  echo "== $stage: test (built in $((built - begin)) s)"
  run=(ctest --test-dir "build/$stage" --output-on-failure --no-tests=error -j "$(nproc)")
  [ "$stage" != cuda ] || run+=(-L cuda)
  [ "$stage" != tsan ] || run=("${fixed_layout[@]}" "${run[@]}")
  "${run[@]}"
  summary+=("$stage: built in $((built - begin)) s, tested in $((SECONDS - built)) s")
done

#!/usr/bin/env bash
# One command from a bare machine to passed tests.
#   scripts/test.sh           everything: optimised build, ASan+UBSan, TSan, fuzzers
#   scripts/test.sh --quick   the optimised build only
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
stages=(cpu asan tsan fuzz)
[ "${1:-}" = --quick ] && stages=(cpu)

scripts/setup.sh --dev
SHARDLINE_SMOLLM2_GGUF=$(scripts/fetch_smollm2.sh)
export SHARDLINE_SMOLLM2_GGUF
if ! cmp -s tests/requirements.txt .venv/requirements.txt; then
  rm -rf .venv
  python3 -m venv .venv
  .venv/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
  cp tests/requirements.txt .venv/requirements.txt
fi
export SHARDLINE_PYTHON=$root/.venv/bin/python

# gcc's ThreadSanitizer cannot place its shadow where the kernel randomises mmap by more bits.
fixed_layout=()
if [ "$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 0)" -gt 28 ]; then
  fixed_layout=(setarch "$(uname -m)" -R)
fi

summary=()
for stage in "${stages[@]}"; do
  begin=$SECONDS
  echo "== $stage: configure and build"
  cmake --preset "$stage" >/dev/null
  cmake --build "build/$stage" -- --quiet
  built=$SECONDS
  echo "== $stage: test"
  "${fixed_layout[@]}" ctest --test-dir "build/$stage" --output-on-failure
  summary+=("$stage: built in $((built - begin)) s, tested in $((SECONDS - built)) s")
done
printf '%s\n' "${summary[@]}"
echo "all stages passed in $SECONDS s"

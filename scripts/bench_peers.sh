#!/usr/bin/env bash
# Our speed on this CPU beside llama.cpp's, on the same checkpoints, prompts, batches and threads:
#   scripts/bench_peers.sh [--threads N] [--runs 5] [--formats bf16,q8_0,q4_0,q4_1]
#                          [--shapes tinyllama-1.1b,smollm2-135m] [--json FILE]
# Peers are built once, from PyPI's sources, in the user's cache folder; so are the checkpoints,
# which have random weights. Runs go in turns; ratios are of medians. The machine should do nothing
# else. Other programs' speed depends on their version, which is printed.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/shardline/peers
mkdir -p "$cache"

if [ ! -x "$cache/venv/bin/python" ]; then
  python3 -m venv "$cache/venv"
fi
if ! "$cache/venv/bin/python" -c 'import gguf, numpy' 2>/dev/null; then
  "$cache/venv/bin/pip" install -q gguf numpy
fi

if [ ! -x "$cache/llama-build/bin/llama-bench" ]; then
  echo "building llama.cpp: some ten minutes of one CPU, once" >&2
  (
    cd "$cache"
    venv/bin/pip download -q --no-deps --no-binary llama-cpp-python llama-cpp-python
    archive=$(ls -t llama_cpp_python-*.tar.gz | head -1)
    tar xzf "$archive"
    # Times of the archive may lie ahead of this machine's clock.
    find "${archive%.tar.gz}" -exec touch -h {} +
    ln -sfn "${archive%.tar.gz}/vendor/llama.cpp" llama.cpp
    nice -n 10 cmake -G "Unix Makefiles" -S llama.cpp -B llama-build -DCMAKE_BUILD_TYPE=Release \
      -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF \
      -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DBUILD_SHARED_LIBS=OFF
    nice -n 10 make -C llama-build llama-bench llama-batched-bench
  ) >"$cache/build.log" 2>&1 || { tail -20 "$cache/build.log" >&2; exit 1; }
fi

[ -f "$root/build/cpu/build.ninja" ] || cmake -S "$root" --preset cpu >/dev/null
cmake --build "$root/build/cpu" --target model_bench >/dev/null
exec "$cache/venv/bin/python" "$root/tests/bench/peers.py" --cache "$cache" \
  --bench "$root/build/cpu/bin/model_bench" "$@"

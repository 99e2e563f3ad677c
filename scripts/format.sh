#!/usr/bin/env bash
# Formats every C++ file; --check only tells whether that would change anything.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
  "") mode=(-i) ;;
  --check) mode=(--dry-run --Werror) ;;
  *) echo "usage: scripts/format.sh [--check]" >&2; exit 2 ;;
esac
git ls-files -z '*.h' '*.cc' '*.cu' '*.cuh' | xargs -0 -r clang-format "${mode[@]}"

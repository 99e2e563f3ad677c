#!/usr/bin/env bash
# Formats every C++ file; --check only tells whether that would change anything.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=-i
[ "${1:-}" = --check ] && mode="--dry-run --Werror"
git ls-files '*.h' '*.cc' '*.cu' '*.cuh' | xargs clang-format $mode

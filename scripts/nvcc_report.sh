#!/usr/bin/env bash
# Compiler launcher of CUDA sources: runs the command given, and keeps what it says on stderr (the
# registers, shared memory and spills of every kernel, by ptxas --verbose) in OBJECT.resources.
set -uo pipefail
object=
for ((i = 1; i < $#; ++i)); do
  [ "${!i}" != -o ] || { next=$((i + 1)); object=${!next}; }
done
[ -n "$object" ] || exec "$@"
"$@" 2>"$object.resources"
status=$?
# Warnings are for people; the report is not.
grep -vE '^ptxas info|^ *[0-9]+ bytes (stack|gmem)|^$' "$object.resources" >&2
exit $status

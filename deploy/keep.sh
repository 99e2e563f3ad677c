# shellcheck shell=bash
# Sourced by what runs replicas: `keep NAME LOG COMMAND...` runs the ranks of one until they are let go.

max_failures=5   # in a row, each before it lived for stable_seconds
stable_seconds=60

say() { echo "$(date -u +%Y-%m-%dT%H:%M:%SZ) shardline: $*"; }

# Starts COMMAND again with back-off when it fails; its output goes to LOG. Ends with 0 when COMMAND
# does, or `keep_stopping` says so; with 7 when it fails too often.
keep() {
  local name=$1 log=$2 failures=0 begin pause
  shift 2
  while true; do
    begin=$SECONDS
    "$@" >>"$log" 2>&1 && return 0  # the coordinator let them go
    ! keep_stopping || return 0
    [ $((SECONDS - begin)) -lt $stable_seconds ] || failures=0
    failures=$((failures + 1))
    if [ $failures -ge $max_failures ]; then
      say "error: $name died $failures times in a row; see $log" >&2
      return 7
    fi
    pause=$((1 << (failures - 1)))
    say "$name is lost; starting it again in $pause s; its requests wait, or go on in another"
    sleep $pause
  done
}

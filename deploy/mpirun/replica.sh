#!/usr/bin/env bash
# Keeps one replica running over several hosts, from the first of them: one rank a slot, by mpirun,
# started again when it is lost. docs/bare-machines.md explains the variables.
#   SHARDLINE_HOSTS=10.0.0.11:4,10.0.0.12:4 SHARDLINE_NETWORK=10.0.0.0/24 \
#     SHARDLINE_COORDINATOR=10.0.0.10:50051 replica.sh [FLAG OF shardline-worker ...]
set -u
. "$(dirname "$0")/../keep.sh"

hosts=${SHARDLINE_HOSTS:?set SHARDLINE_HOSTS to HOST:RANKS,HOST:RANKS...}
network=${SHARDLINE_NETWORK:?set SHARDLINE_NETWORK to the interface or network (as 10.0.0.0/24) between the hosts}
coordinator=${SHARDLINE_COORDINATOR:?set SHARDLINE_COORDINATOR to HOST:PORT}
first_port=${SHARDLINE_MPI_PORT:-31000}
log=${SHARDLINE_LOG:-shardline-ranks.log}
worker=shardline-worker
[ -z "${SHARDLINE_BIN:-}" ] || worker=$SHARDLINE_BIN/shardline-worker

world=0
for host in ${hosts//,/ }; do
  [[ $host =~ ^[^:]+:[1-9][0-9]*$ ]] || { echo "error: SHARDLINE_HOSTS: \"$host\" is not HOST:RANKS" >&2; exit 2; }
  world=$((world + ${host##*:}))
done

# MPI listens on the hundred ports from the first on, of all addresses: a daemon on two (it would open
# every port of a range), the ranks on the others, each on one of IPv4 and of IPv6 that IPv4 alone uses.
# A host that is gone is found within seconds, not after two hours.
ranks_port=$((first_port + 2)) ranks_ports=98
mca=(
  --mca plm rsh --mca plm_rsh_agent "${SHARDLINE_REMOTE_SHELL:-ssh}"
  --mca oob_tcp_if_include "$network" --mca oob_tcp_disable_ipv6_family 1
  --mca oob_tcp_dynamic_ipv4_ports "$first_port" --mca oob_tcp_dynamic_ipv6_ports $((first_port + 1))
  --mca oob_tcp_keepalive_time 2 --mca oob_tcp_keepalive_intvl 1 --mca oob_tcp_keepalive_probes 5
  --mca pml ob1 --mca btl "self,vader,tcp" --mca btl_vader_single_copy_mechanism none
  --mca btl_tcp_if_include "$network" --mca btl_tcp_disable_family 6
  --mca btl_tcp_port_min_v4 "$ranks_port" --mca btl_tcp_port_range_v4 "$ranks_ports"
  --mca btl_tcp_port_min_v6 "$ranks_port" --mca btl_tcp_port_range_v6 "$ranks_ports"
  --mca mpi_yield_when_idle 1
)
[ "$(id -u)" != 0 ] || mca+=(--allow-run-as-root)

ranks=
stopping=
keep_stopping() { [ -n "$stopping" ]; }
trap 'stopping=1; [ -z "$ranks" ] || kill -TERM "$ranks" 2>/dev/null' TERM INT

run_ranks() {
  mpirun "${mca[@]}" --bind-to none -n "$world" --host "$hosts" \
    "$worker" --coordinator "$coordinator" "$@" &
  ranks=$!
  local code
  while true; do  # a signal ends `wait`, not the ranks
    wait "$ranks"
    code=$?
    kill -0 "$ranks" 2>/dev/null || return $code
  done
}

keep "the replica" "$log" run_ranks "$@"

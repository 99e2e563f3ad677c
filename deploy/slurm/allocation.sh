# shellcheck shell=bash
# Sourced by serve.sbatch and batch.sbatch, which set $folder to its folder: a cluster inside a Slurm
# allocation. The coordinator runs where the batch script does, on the first node; each replica is one
# `srun` step, started again when it is lost. docs/slurm.md explains the variables.

: "${SLURM_JOB_ID:?this runs inside a Slurm allocation: submit it with sbatch}"

model=${SHARDLINE_MODEL:?set SHARDLINE_MODEL to a .gguf file or a Hugging Face directory that every node can read}
bin=${SHARDLINE_BIN:-}
[ -z "$bin" ] || PATH=$bin:$PATH
logs=${SHARDLINE_LOG_DIR:-$PWD/shardline-$SLURM_JOB_ID}
. "$folder/../keep.sh"
fail() { say "error: $*" >&2; exit 7; }

# Each replica has an equal part of the tasks: whole nodes, or a part of one. Ranks of a node share a
# replica's matrices, over its fast links; stages go from node to node. Sizes that are given win.
read_layout() {
  local tasks=${SLURM_NTASKS:-$SLURM_JOB_NUM_NODES}
  replicas=${SHARDLINE_REPLICAS:-1}
  [[ $replicas =~ ^[1-9][0-9]*$ ]] && [ $((tasks % replicas)) -eq 0 ] ||
    fail "SHARDLINE_REPLICAS ($replicas) must divide the $tasks tasks of the allocation"
  world=$((tasks / replicas))
  per_node=$((tasks / SLURM_JOB_NUM_NODES))
  nodes=$SLURM_JOB_NUM_NODES  # of a replica
  if [ "$replicas" -gt 1 ]; then
    [ $((per_node * SLURM_JOB_NUM_NODES)) -eq "$tasks" ] &&
      { [ $((world % per_node)) -eq 0 ] || [ $((per_node % world)) -eq 0 ]; } ||
      fail "$replicas replicas of $world tasks do not fit $SLURM_JOB_NUM_NODES nodes of $per_node tasks:" \
        "a replica must be whole nodes or an equal part of one; change --ntasks-per-node or SHARDLINE_REPLICAS"
    nodes=$((world > per_node ? world / per_node : 1))
  fi
  tensor=${SHARDLINE_TENSOR_PARALLEL_SIZE:-}
  pipeline=${SHARDLINE_PIPELINE_PARALLEL_SIZE:-}
  data=${SHARDLINE_DATA_PARALLEL_SIZE:-1}
  if [ -z "$tensor" ] && [ -z "$pipeline" ]; then
    pipeline=$nodes
    [ $((world % (pipeline * data))) -eq 0 ] || pipeline=1
  fi
  [ -n "$tensor" ] || tensor=$((world / (pipeline * data)))
  [ -n "$pipeline" ] || pipeline=$((world / (tensor * data)))
  [ $((tensor * pipeline * data)) -eq "$world" ] ||
    fail "tensor ($tensor) x pipeline ($pipeline) x data ($data) parallel sizes are not the $world tasks" \
      "of a replica; change --ntasks, or SHARDLINE_TENSOR_PARALLEL_SIZE and its like"
}

# Where other nodes reach this one.
address_of_first_node() {
  local address
  address=$(scontrol show node "$SLURMD_NODENAME" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
  echo "${address:-$(hostname)}"
}

start_coordinator() {
  mkdir -p "$logs"
  : >"$logs/coordinator.out"  # a requeued job must not find the port of its life before
  shardline-coordinator "$model" --listen "${SHARDLINE_LISTEN:-0.0.0.0:0}" \
    --replicas "$replicas" --tensor-parallel-size "$tensor" --pipeline-parallel-size "$pipeline" \
    --data-parallel-size "$data" "$@" >"$logs/coordinator.out" 2>>"$logs/coordinator.log" &
  coordinator=$!
  local port=
  until port=$(sed -n 's/^listening on .*:\([0-9]*\)$/\1/p' "$logs/coordinator.out") && [ -n "$port" ]; do
    kill -0 "$coordinator" 2>/dev/null ||
      fail "the coordinator did not start: $(tail -n 3 "$logs/coordinator.log")"
    sleep 0.1
  done
  address=$(address_of_first_node):$port
  echo "$address" >"$logs/address"
}

ranks_log() { [ "$replicas" -eq 1 ] && echo "$logs/ranks.log" || echo "$logs/ranks-$1.log"; }
keep_stopping() { [ -e "$logs/stopping" ]; }

run_ranks() {  # replica
  local place=() beside=()
  if [ "$replicas" -gt 1 ]; then  # beside the others' steps, not after them
    local first=$(($1 * world / per_node))
    beside=(--ranks-on-host "$per_node" --first-rank-on-host $(($1 * world % per_node)))
    place=(--exact --nodes="$nodes" --relative="$first" --ntasks-per-node="$((world / nodes))")
    [ -z "${SLURM_GPUS_ON_NODE:-}" ] || place+=(--gpus-per-task=1)
  fi
  srun --ntasks="$world" "${place[@]}" --mpi="${SHARDLINE_SRUN_MPI:-pmix}" --kill-on-bad-exit=1 \
    --job-name="shardline-replica-$1" \
    shardline-worker --coordinator "$address" --replica "$1" --threads "${SLURM_CPUS_PER_TASK:-0}" \
    "${beside[@]}"
}

start_cluster() {
  read_layout
  rm -f "$logs/stopping"
  start_coordinator "$@"
  local i
  kept=()
  for ((i = 0; i < replicas; i++)); do
    keep "replica $i" "$(ranks_log "$i")" run_ranks "$i" &
    kept+=($!)
  done
  say "started replicas=$replicas tensor_parallel_size=$tensor pipeline_parallel_size=$pipeline" \
    "data_parallel_size=$data nodes=$SLURM_JOB_NODELIST logs=$logs"
}

# False when the coordinator or every replica has ended for good.
running() {
  local one
  kill -0 "$coordinator" 2>/dev/null || return 1
  for one in "${kept[@]}"; do
    ! kill -0 "$one" 2>/dev/null || return 0
  done
  return 1
}

# Until something ends, or a signal comes.
wait_for_any() {
  local live=() one
  for one in "$coordinator" "${kept[@]}" "$@"; do
    ! kill -0 "$one" 2>/dev/null || live+=("$one")
  done
  wait -n "${live[@]}"
}

wait_until_serving() {
  until shardline status --address "$address" >/dev/null 2>&1; do
    running || fail "the cluster did not start; see $logs"
    [ -z "${stop:-}" ] || return 0
    sleep 0.3
  done
  say "ready address=$address seconds=$SECONDS"
}

# The coordinator drains: running requests finish within --drain-timeout. Then it lets the ranks go.
stop_cluster() {
  touch "$logs/stopping"
  kill -TERM "$coordinator" 2>/dev/null
  wait_for_end "$coordinator"
  local code=$?
  local one
  for one in "${kept[@]}"; do wait_for_end "$one"; done
  rm -f "$logs/stopping"
  return $code
}

# `wait` that a trapped signal does not cut short.
wait_for_end() {
  local code
  while true; do
    wait "$1"
    code=$?
    kill -0 "$1" 2>/dev/null || return $code
  done
}

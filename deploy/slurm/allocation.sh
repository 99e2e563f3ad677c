# shellcheck shell=bash
# Sourced by serve.sbatch and batch.sbatch, which set $folder to its folder: a cluster inside a Slurm
# allocation. The coordinator runs where the batch script does, on the first node; the replica is one
# `srun` step, started again when it is lost. docs/slurm.md explains the variables.

: "${SLURM_JOB_ID:?this runs inside a Slurm allocation: submit it with sbatch}"

model=${SHARDLINE_MODEL:?set SHARDLINE_MODEL to a .gguf file or a Hugging Face directory that every node can read}
bin=${SHARDLINE_BIN:-}
[ -z "$bin" ] || PATH=$bin:$PATH
logs=${SHARDLINE_LOG_DIR:-$PWD/shardline-$SLURM_JOB_ID}
. "$folder/../keep.sh"
fail() { say "error: $*" >&2; exit 7; }

# Ranks of a node share its layers' matrices, over its fast links; stages go from node to node. Sizes
# that are given win.
read_layout() {
  world=${SLURM_NTASKS:-$SLURM_JOB_NUM_NODES}
  tensor=${SHARDLINE_TENSOR_PARALLEL_SIZE:-}
  pipeline=${SHARDLINE_PIPELINE_PARALLEL_SIZE:-}
  data=${SHARDLINE_DATA_PARALLEL_SIZE:-1}
  if [ -z "$tensor" ] && [ -z "$pipeline" ]; then
    pipeline=$SLURM_JOB_NUM_NODES
    [ $((world % (pipeline * data))) -eq 0 ] || pipeline=1
  fi
  [ -n "$tensor" ] || tensor=$((world / (pipeline * data)))
  [ -n "$pipeline" ] || pipeline=$((world / (tensor * data)))
  [ $((tensor * pipeline * data)) -eq "$world" ] ||
    fail "tensor ($tensor) x pipeline ($pipeline) x data ($data) parallel sizes are not the $world tasks" \
      "of the allocation; change --ntasks, or SHARDLINE_TENSOR_PARALLEL_SIZE and its like"
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
    --tensor-parallel-size "$tensor" --pipeline-parallel-size "$pipeline" \
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

keep_stopping() { [ -e "$logs/stopping" ]; }

run_ranks() {
  srun --ntasks="$world" --mpi="${SHARDLINE_SRUN_MPI:-pmix}" --kill-on-bad-exit=1 \
    --job-name=shardline-replica \
    shardline-worker --coordinator "$address" --threads "${SLURM_CPUS_PER_TASK:-0}"
}

start_cluster() {
  read_layout
  rm -f "$logs/stopping"
  start_coordinator "$@"
  keep "$logs/ranks.log" run_ranks &
  replica=$!
  say "started tensor_parallel_size=$tensor pipeline_parallel_size=$pipeline" \
    "data_parallel_size=$data nodes=$SLURM_JOB_NODELIST logs=$logs"
}

# False when the coordinator or the replica has ended for good.
running() { kill -0 "$coordinator" 2>/dev/null && kill -0 "$replica" 2>/dev/null; }

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
  wait_for_end "$replica"
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

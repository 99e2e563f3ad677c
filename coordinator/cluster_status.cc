#include "coordinator/cluster_status.h"

#include <utility>

namespace shardline::coordinator {
namespace {

void FillNumbers(const ReplicaSnapshot& numbers, v1::ReplicaStatus& replica) {
  const ReplicaLoad& load = numbers.load;
  replica.set_kv_blocks_used(load.blocks_used);
  replica.set_running(load.running);
  replica.set_outstanding_steps(load.outstanding_steps);
  replica.set_steps(load.steps);
  replica.set_active_seconds(std::chrono::duration<double>(numbers.active).count());
  replica.set_prompt_tokens_computed(load.prompt_tokens_computed);
  replica.set_prompt_tokens_cached(load.prompt_tokens_cached);
}

}  // namespace

v1::GetStatusResponse ClusterStatus(const std::string& model, const Engine& engine,
                                    const ReplicaSet& replicas,
                                    std::chrono::steady_clock::time_point started) {
  const EngineSnapshot snapshot = engine.Snapshot();
  v1::GetStatusResponse status;
  status.set_model(model);
  status.set_version(SHARDLINE_VERSION);
  status.set_uptime_seconds(
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
  status.set_serving(snapshot.serving);
  for (v1::ReplicaStatus& replica : replicas.Status()) {
    for (const ReplicaSnapshot& numbers : snapshot.replicas) {
      if (numbers.epoch == replica.epoch()) FillNumbers(numbers, replica);
    }
    *status.add_replicas() = std::move(replica);
  }
  v1::QueueStatus& queue = *status.mutable_queue();
  queue.set_running(snapshot.running);
  queue.set_waiting(snapshot.waiting);
  queue.set_waiting_tokens(snapshot.waiting_tokens);
  v1::Counters& counters = *status.mutable_counters();
  counters.set_requests_accepted(snapshot.accepted);
  counters.set_requests_finished(snapshot.finished);
  counters.set_requests_cancelled(snapshot.cancelled);
  counters.set_requests_rejected(snapshot.rejected);
  counters.set_requests_resumed(snapshot.resumed);
  counters.set_prompt_tokens(snapshot.prompt_tokens);
  counters.set_generated_tokens(snapshot.generated_tokens);
  counters.set_steps(snapshot.steps);
  return status;
}

}  // namespace shardline::coordinator

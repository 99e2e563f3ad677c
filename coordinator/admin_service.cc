#include <grpcpp/grpcpp.h>

#include <chrono>
#include <utility>

#include "coordinator/grpc_status.h"
#include "coordinator/services.h"
#include "shardline/v1/admin.grpc.pb.h"

namespace shardline::coordinator {
namespace {

class AdminService : public v1::Admin::CallbackService {
 public:
  AdminService(const ServedModel& served, const Engine& engine, ReplicaSet& replicas)
      : served_(served), engine_(engine), replicas_(replicas) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest*,
                                      v1::GetStatusResponse* response) override {
    const EngineSnapshot snapshot = engine_.Snapshot();
    response->set_model(served_.name);
    response->set_version(SHARDLINE_VERSION);
    response->set_uptime_seconds(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count());
    response->set_serving(snapshot.serving);
    for (v1::ReplicaStatus& replica : replicas_.Status()) {
      for (const ReplicaSnapshot& numbers : snapshot.replicas) {
        if (numbers.epoch == replica.epoch()) FillNumbers(numbers, replica);
      }
      *response->add_replicas() = std::move(replica);
    }
    v1::QueueStatus& queue = *response->mutable_queue();
    queue.set_running(snapshot.running);
    queue.set_waiting(snapshot.waiting);
    queue.set_waiting_tokens(snapshot.waiting_tokens);
    v1::Counters& counters = *response->mutable_counters();
    counters.set_requests_accepted(snapshot.accepted);
    counters.set_requests_finished(snapshot.finished);
    counters.set_requests_cancelled(snapshot.cancelled);
    counters.set_requests_rejected(snapshot.rejected);
    counters.set_requests_resumed(snapshot.resumed);
    counters.set_prompt_tokens(snapshot.prompt_tokens);
    counters.set_generated_tokens(snapshot.generated_tokens);
    counters.set_steps(snapshot.steps);
    return Answer(context, absl::OkStatus());
  }

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request, v1::DrainResponse*) override {
    return Answer(context, replicas_.SetDraining(request->replica(), true));
  }

  grpc::ServerUnaryReactor* Undrain(grpc::CallbackServerContext* context,
                                    const v1::UndrainRequest* request,
                                    v1::UndrainResponse*) override {
    return Answer(context, replicas_.SetDraining(request->replica(), false));
  }

 private:
  static grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                          const absl::Status& status) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(status));
    return reactor;
  }

  static void FillNumbers(const ReplicaSnapshot& numbers, v1::ReplicaStatus& replica) {
    const ReplicaLoad& load = numbers.load;
    replica.set_kv_blocks_used(load.blocks_used);
    replica.set_running(load.running);
    replica.set_outstanding_steps(load.outstanding_steps);
    replica.set_steps(load.steps);
    replica.set_active_seconds(std::chrono::duration<double>(numbers.active).count());
    replica.set_prompt_tokens_computed(load.prompt_tokens_computed);
    replica.set_prompt_tokens_cached(load.prompt_tokens_cached);
  }

  const ServedModel& served_;
  const Engine& engine_;
  ReplicaSet& replicas_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
};

}  // namespace

std::unique_ptr<grpc::Service> MakeAdminService(const ServedModel& served, const Engine& engine,
                                                ReplicaSet& replicas) {
  return std::make_unique<AdminService>(served, engine, replicas);
}

}  // namespace shardline::coordinator

#include <grpcpp/grpcpp.h>

#include <chrono>

#include "coordinator/services.h"
#include "shardline/v1/admin.grpc.pb.h"

namespace shardline::coordinator {
namespace {

class AdminService : public v1::Admin::CallbackService {
 public:
  AdminService(const ServedModel& served, const Engine& engine, const Replica& replica)
      : served_(served), engine_(engine), replica_(replica) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest*,
                                      v1::GetStatusResponse* response) override {
    const EngineSnapshot snapshot = engine_.Snapshot();
    response->set_model(served_.name);
    response->set_version(SHARDLINE_VERSION);
    response->set_uptime_seconds(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count());
    *response->mutable_replica() = replica_.Status();
    response->mutable_replica()->set_kv_blocks_used(snapshot.blocks_used);
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
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  const ServedModel& served_;
  const Engine& engine_;
  const Replica& replica_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
};

}  // namespace

std::unique_ptr<grpc::Service> MakeAdminService(const ServedModel& served, const Engine& engine,
                                                const Replica& replica) {
  return std::make_unique<AdminService>(served, engine, replica);
}

}  // namespace shardline::coordinator

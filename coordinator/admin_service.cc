#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/access.h"
#include "coordinator/cluster_status.h"
#include "coordinator/expert_load.h"
#include "coordinator/grpc_status.h"
#include "coordinator/services.h"
#include "shardline/v1/admin.grpc.pb.h"

namespace shardline::coordinator {
namespace {

class AdminService : public v1::Admin::CallbackService {
 public:
  AdminService(const ServedModel& served, const Engine& engine, ReplicaSet& replicas,
               const security::BearerTokens& tokens)
      : served_(served), engine_(engine), replicas_(replicas), tokens_(tokens) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest*,
                                      v1::GetStatusResponse* response) override {
    const absl::Status access = CheckAccess(*context, tokens_);
    if (!access.ok()) return Answer(context, access);
    *response = ClusterStatus(served_.name, engine_, replicas_, started_);
    return Answer(context, absl::OkStatus());
  }

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request, v1::DrainResponse*) override {
    const absl::Status access = CheckAccess(*context, tokens_);
    return Answer(context, access.ok() ? replicas_.SetDraining(request->replica(), true) : access);
  }

  grpc::ServerUnaryReactor* Undrain(grpc::CallbackServerContext* context,
                                    const v1::UndrainRequest* request,
                                    v1::UndrainResponse*) override {
    const absl::Status access = CheckAccess(*context, tokens_);
    return Answer(context, access.ok() ? replicas_.SetDraining(request->replica(), false) : access);
  }

  grpc::ServerUnaryReactor* GetExpertLoad(grpc::CallbackServerContext* context,
                                          const v1::GetExpertLoadRequest* request,
                                          v1::GetExpertLoadResponse* response) override {
    return WithExpertLoad(context, request->replica(), [response](const ExpertCounts& counts) {
      absl::StatusOr<v1::GetExpertLoadResponse> load = MergeExpertLoad(counts);
      if (load.ok()) *response = *std::move(load);
      return load.status();
    });
  }

  grpc::ServerUnaryReactor* PlanExpertPlacement(
      grpc::CallbackServerContext* context, const v1::PlanExpertPlacementRequest* request,
      v1::PlanExpertPlacementResponse* response) override {
    // More copies than ranks times experts change nothing.
    const int spare = static_cast<int>(std::min<uint32_t>(request->spare_experts(), 1 << 20));
    return WithExpertLoad(context, request->replica(), [=](const ExpertCounts& counts) {
      const absl::StatusOr<v1::GetExpertLoadResponse> load = MergeExpertLoad(counts);
      if (!load.ok()) return load.status();
      absl::StatusOr<v1::PlanExpertPlacementResponse> plan =
          PlanPlacement(counts.layout, *load, spare);
      if (plan.ok()) *response = *std::move(plan);
      return plan.status();
    });
  }

 private:
  static grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                          const absl::Status& status) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(status));
    return reactor;
  }

  /// Ends the call with what `use` makes of the ranks' counts.
  grpc::ServerUnaryReactor* WithExpertLoad(grpc::CallbackServerContext* context,
                                           const std::string& replica,
                                           std::function<absl::Status(ExpertCounts)> use) {
    const absl::Status access = CheckAccess(*context, tokens_);
    if (!access.ok()) return Answer(context, access);
    if (!served_.HasMixture()) {
      return Answer(context, absl::FailedPreconditionError(
                                 absl::StrCat(served_.name, " has no mixture of experts")));
    }
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    replicas_.AskExpertLoad(
        replica, [reactor, use = std::move(use)](absl::StatusOr<ExpertCounts> counts) {
          reactor->Finish(ToGrpc(counts.ok() ? use(*std::move(counts)) : counts.status()));
        });
    return reactor;
  }

  const ServedModel& served_;
  const Engine& engine_;
  ReplicaSet& replicas_;
  const security::BearerTokens& tokens_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
};

}  // namespace

std::unique_ptr<grpc::Service> MakeAdminService(const ServedModel& served, const Engine& engine,
                                                ReplicaSet& replicas,
                                                const security::BearerTokens& tokens) {
  return std::make_unique<AdminService>(served, engine, replicas, tokens);
}

}  // namespace shardline::coordinator

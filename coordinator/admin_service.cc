#include <grpcpp/grpcpp.h>

#include <chrono>
#include <utility>

#include "coordinator/access.h"
#include "coordinator/cluster_status.h"
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

 private:
  static grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                          const absl::Status& status) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(status));
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

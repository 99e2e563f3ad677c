#include <grpcpp/grpcpp.h>

#include <chrono>
#include <utility>

#include "coordinator/cluster_status.h"
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
    *response = ClusterStatus(served_.name, engine_, replicas_, started_);
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

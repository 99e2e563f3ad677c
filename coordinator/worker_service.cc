#include "coordinator/worker_service.h"

#include <grpcpp/grpcpp.h>

#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "coordinator/grpc_status.h"
#include "shardline/v1/worker_control.grpc.pb.h"

namespace shardline::coordinator {
namespace {

/// gRPC owns the reactor until OnDone; the replica reaches it through `Handle`, which outlives it.
class RankReactor : public grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage> {
 public:
  explicit RankReactor(ReplicaSet& replicas)
      : replicas_(replicas), handle_(std::make_shared<Handle>(this)) {
    StartRead(&incoming_);
  }

  void OnReadDone(bool ok) override {
    // A broken connection, a dead process and an orderly end all show here: a read is always
    // pending. So this one reaction tells the replica, and nothing races with it.
    if (!ok) {
      if (replica_ != nullptr) {
        replica_->Detached(epoch_, rank_, absl::UnavailableError("its stream ended"));
      }
      return handle_->Close(absl::CancelledError("the rank left"));
    }
    if (replica_ == nullptr) {
      if (!incoming_.has_hello()) {
        return handle_->Close(absl::FailedPreconditionError("the first message must be Hello"));
      }
      rank_ = static_cast<int>(incoming_.hello().rank());
      const absl::StatusOr<ReplicaSet::Attached> attached =
          replicas_.Attach(incoming_.hello(), handle_);
      if (!attached.ok()) return handle_->Close(attached.status());
      replica_ = attached->replica;
      epoch_ = attached->epoch;
    } else {
      replica_->Receive(epoch_, rank_, std::move(incoming_));
      incoming_.Clear();
    }
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override { handle_->Written(ok); }

  void OnDone() override {
    handle_->Forget();
    delete this;
  }

 private:
  class Handle : public RankStream {
   public:
    explicit Handle(RankReactor* reactor) : reactor_(reactor) {}

    void Send(std::shared_ptr<const v1::CoordinatorMessage> message) override {
      std::lock_guard lock(mutex_);
      if (reactor_ == nullptr || closing_) return;
      queue_.push_back(std::move(message));
      if (queue_.size() == 1) reactor_->StartWrite(queue_.front().get());
    }

    void Close(const absl::Status& status) override {
      std::lock_guard lock(mutex_);
      if (closing_) return;
      closing_ = status;
      if (reactor_ != nullptr && queue_.empty()) reactor_->Finish(ToGrpc(status));
    }

    void Written(bool ok) {
      std::lock_guard lock(mutex_);
      queue_.pop_front();
      if (!ok) queue_.clear();
      if (!queue_.empty()) {
        reactor_->StartWrite(queue_.front().get());
      } else if (closing_) {
        reactor_->Finish(ToGrpc(*closing_));
      }
    }

    void Forget() {
      std::lock_guard lock(mutex_);
      reactor_ = nullptr;
    }

   private:
    std::mutex mutex_;
    RankReactor* reactor_;                                             // null after OnDone
    std::deque<std::shared_ptr<const v1::CoordinatorMessage>> queue_;  // front: being written
    std::optional<absl::Status> closing_;
  };

  ReplicaSet& replicas_;
  const std::shared_ptr<Handle> handle_;
  v1::WorkerMessage incoming_;
  std::shared_ptr<Replica> replica_;  // set once attached, as are these
  uint64_t epoch_ = 0;
  int rank_ = -1;
};

class WorkerService : public v1::WorkerControl::CallbackService {
 public:
  explicit WorkerService(ReplicaSet& replicas) : replicas_(replicas) {}

  grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* Attach(
      grpc::CallbackServerContext*) override {
    return new RankReactor(replicas_);
  }

 private:
  ReplicaSet& replicas_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeWorkerService(ReplicaSet& replicas) {
  return std::make_unique<WorkerService>(replicas);
}

}  // namespace shardline::coordinator

#include "coordinator/worker_service.h"

#include <grpcpp/grpcpp.h>

#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "coordinator/access.h"
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

/// Ends the stream of a caller that is not let in.
class RefusingReactor : public grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage> {
 public:
  explicit RefusingReactor(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

class WorkerService : public v1::WorkerControl::CallbackService {
 public:
  WorkerService(ReplicaSet& replicas, const security::BearerTokens& tokens)
      : replicas_(replicas), tokens_(tokens) {}

  grpc::ServerBidiReactor<v1::WorkerMessage, v1::CoordinatorMessage>* Attach(
      grpc::CallbackServerContext* context) override {
    const absl::Status access = CheckAccess(*context, tokens_);
    if (!access.ok()) return new RefusingReactor(access);
    return new RankReactor(replicas_);
  }

 private:
  ReplicaSet& replicas_;
  const security::BearerTokens& tokens_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeWorkerService(ReplicaSet& replicas,
                                                 const security::BearerTokens& tokens) {
  return std::make_unique<WorkerService>(replicas, tokens);
}

}  // namespace shardline::coordinator

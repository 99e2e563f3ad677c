#include "coordinator/generation_calls.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/client_call.h"
#include "coordinator/client_message.h"
#include "coordinator/grpc_status.h"

namespace shardline::coordinator {
namespace {

// What one message of a stream holds at most: far below the 4 MiB that clients accept by default.
constexpr size_t kMostTokens = 1024;
constexpr size_t kMostScoredTokens = 128;

class StreamCall : public ClientCall {
 public:
  class Reactor : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
   public:
    explicit Reactor(std::shared_ptr<StreamCall> call) : call_(std::move(call)) {
      call_->reactor_ = this;
    }
    void OnWriteDone(bool ok) override { call_->Written(ok); }
    void OnCancel() override { call_->Cancelled(); }
    void OnDone() override {
      call_->Done();
      delete this;
    }

   private:
    const std::shared_ptr<StreamCall> call_;
  };

  using ClientCall::ClientCall;

  void Deliver(const ActiveRequest& request) override {
    if (writing_ || finished_) return;
    if (end_) return Finish(*end_);
    if (WriteNext(request) || WriteId(request)) return;
    if (request.error()) return Finish(*request.error());
    if (AllSent(request)) Finish(absl::OkStatus());
  }

 private:
  struct Cursor {
    size_t tokens = 0;  // of the answer that were sent, or that the client has already
    bool end_sent = false;
  };

  const char* method() const override { return "GenerateStream"; }

  void Take(const v1::GenerateRequest& request) override {
    for (const uint32_t index : request.next_index()) cursors_.push_back({index, false});
    prompt_sent_ = request.next_index_size() > 0 && request.next_index(0) > 0 ? SIZE_MAX : 0;
  }

  bool AllSent(const ActiveRequest& request) const {
    return cursors_.size() >= request.answers().size() &&
           std::all_of(cursors_.begin(), cursors_.begin() + request.answers().size(),
                       [](const Cursor& cursor) { return cursor.end_sent; });
  }

  /// False when nothing is new.
  bool WriteNext(const ActiveRequest& request) {
    const size_t answers = request.answers().size();
    if (cursors_.size() < answers) cursors_.resize(answers);
    for (size_t i = 0; i < answers; ++i, next_ = (next_ + 1) % answers) {
      if (!HasNews(request, next_)) continue;
      Write(request, next_);
      next_ = (next_ + 1) % answers;
      return true;
    }
    return false;
  }

  /// Before there is a token, where that helps: by its id the client can come back to the request.
  bool WriteId(const ActiveRequest& request) {
    if (request_id_sent_ || !request.journaled() || request.error()) return false;
    request_id_sent_ = true;
    v1::GenerateStreamResponse message;
    message.set_request_id(request.request_id());
    WriteMessage(message);
    return true;
  }

  bool HasNews(const ActiveRequest& request, size_t index) const {
    const Answer& answer = request.answers()[index];
    const Cursor& cursor = cursors_[index];
    return !cursor.end_sent && (answer.size() > cursor.tokens || answer.finished());
  }

  void Write(const ActiveRequest& request, size_t index) {
    v1::GenerateStreamResponse message;
    if (!request_id_sent_) message.set_request_id(request.request_id());
    request_id_sent_ = true;
    message.set_index(static_cast<uint32_t>(index));
    const auto& scores = request.prompt_logprobs();
    size_t most = request.answers()[index].scored() ? kMostScoredTokens : kMostTokens;
    if (prompt_sent_ < scores.size()) {
      const size_t end = std::min(scores.size(), prompt_sent_ + kMostScoredTokens);
      for (; prompt_sent_ < end; ++prompt_sent_)
        *message.add_prompt_logprobs() = scores[prompt_sent_];
      if (end < scores.size()) most = 0;  // all of the prompt's before any token
    }
    Cursor& cursor = cursors_[index];
    cursor.tokens = request.answers()[index].Read(cursor.tokens, most, message);
    cursor.end_sent = message.finish_reason() != v1::FINISH_REASON_UNSPECIFIED;
    if (AllSent(request)) *message.mutable_usage() = request.usage();
    WriteMessage(message);
  }

  void WriteMessage(const v1::GenerateStreamResponse& message) {
    writing_ = true;
    Offer();
    bytes_ = SerializeAnswer(message);
    reactor_->StartWrite(&bytes_);
  }

  void Written(bool ok) {
    AwaitWrites();
    WithLock([&](const ActiveRequest& request) {
      writing_ = false;
      Taken();
      if (!ok && !end_) end_ = absl::CancelledError("the client went away");
      Deliver(request);
    });
  }

  void FinishReactor(const absl::Status& status) override { reactor_->Finish(ToGrpc(status)); }

  Reactor* reactor_ = nullptr;  // alive until it has finished
  grpc::ByteBuffer bytes_;      // being written
  bool writing_ = false;
  bool request_id_sent_ = false;
  std::vector<Cursor> cursors_;  // by answer
  size_t next_ = 0;              // the answer whose turn it is
  size_t prompt_sent_ = 0;       // of the prompt's scores
};

class UnaryCall : public ClientCall {
 public:
  class Reactor : public grpc::ServerUnaryReactor {
   public:
    explicit Reactor(std::shared_ptr<UnaryCall> call) : call_(std::move(call)) {
      call_->reactor_ = this;
    }
    void OnCancel() override { call_->Cancelled(); }
    void OnDone() override {
      call_->Done();
      delete this;
    }

   private:
    const std::shared_ptr<UnaryCall> call_;
  };

  UnaryCall(RequestTable& table, OpenCalls& calls, grpc::CallbackServerContext* context,
            std::string model, grpc::ByteBuffer* answer)
      : ClientCall(table, calls, context), model_(std::move(model)), answer_(answer) {}

  void Deliver(const ActiveRequest& request) override {
    if (finished_) return;
    if (end_) return Finish(*end_);
    if (request.error()) return Finish(*request.error());
    if (!request.finished()) return;
    *answer_ = SerializeAnswer(ResponseOf(request));
    Finish(absl::OkStatus());
  }

 private:
  const char* method() const override { return "Generate"; }

  v1::GenerateResponse ResponseOf(const ActiveRequest& request) const {
    v1::GenerateResponse response;
    response.set_request_id(request.request_id());
    response.set_model(model_);
    v1::Answer first;
    request.answers()[0].ReadAll(first);
    response.set_text(std::move(*first.mutable_text()));
    response.mutable_token_ids()->Swap(first.mutable_token_ids());
    response.mutable_logprobs()->Swap(first.mutable_logprobs());
    response.set_finish_reason(first.finish_reason());
    if (first.has_stop_cause()) *response.mutable_stop_cause() = first.stop_cause();
    for (size_t i = 1; i < request.answers().size(); ++i) {
      request.answers()[i].ReadAll(*response.add_further_answers());
    }
    for (const v1::PositionLogprobs& scores : request.prompt_logprobs()) {
      *response.add_prompt_logprobs() = scores;
    }
    *response.mutable_usage() = request.usage();
    return response;
  }

  void FinishReactor(const absl::Status& status) override { reactor_->Finish(ToGrpc(status)); }

  const std::string model_;
  Reactor* reactor_ = nullptr;
  grpc::ByteBuffer* const answer_;
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartStreamCall(RequestTable& table, OpenCalls& calls,
                                                            grpc::CallbackServerContext* context,
                                                            const absl::Status& access,
                                                            const grpc::ByteBuffer& bytes) {
  auto call = std::make_shared<StreamCall>(table, calls, context);
  auto* const reactor = new StreamCall::Reactor(call);
  call->Start(access, bytes);
  return reactor;
}

grpc::ServerUnaryReactor* StartUnaryCall(RequestTable& table, OpenCalls& calls,
                                         grpc::CallbackServerContext* context,
                                         const absl::Status& access, const grpc::ByteBuffer& bytes,
                                         const std::string& model, grpc::ByteBuffer* answer) {
  auto call = std::make_shared<UnaryCall>(table, calls, context, model, answer);
  auto* const reactor = new UnaryCall::Reactor(call);
  call->Start(access, bytes);
  return reactor;
}

}  // namespace shardline::coordinator

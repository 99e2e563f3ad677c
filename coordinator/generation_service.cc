#include <grpcpp/grpcpp.h>

#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/answer_text.h"
#include "coordinator/client_message.h"
#include "coordinator/grpc_status.h"
#include "coordinator/services.h"
#include "shardline/v1/generation.grpc.pb.h"

namespace shardline::coordinator {
namespace {

/// How long a refused client should wait before it tries again.
constexpr char kRetryPushbackKey[] = "grpc-retry-pushback-ms";
constexpr char kRetryPushbackMilliseconds[] = "1000";

v1::FinishReason ToProto(FinishReason reason) {
  return reason == FinishReason::kStop ? v1::FINISH_REASON_STOP : v1::FINISH_REASON_LENGTH;
}

/// One request on its way: collects tokens and text for whoever delivers them. Shared by the engine
/// and the gRPC reactor; whichever lets go last frees it.
///
/// The engine thread calls OnToken and OnError; the reactor calls the rest. `Deliver` is called
/// with the mutex held, by either.
class Call : public TokenSink, public std::enable_shared_from_this<Call> {
 public:
  Call(const ServedModel& served, Engine& engine, OpenCalls& calls,
       grpc::CallbackServerContext* context)
      : served_(served), engine_(engine), calls_(calls), context_(context) {
    calls_.Begin();
  }

  /// Checks the request and hands it to the engine; the call has ended when that fails.
  void Start(const grpc::ByteBuffer& bytes) {
    v1::GenerateRequest request;
    const absl::Status parsed = ParseClientMessage(bytes, request);
    if (!parsed.ok()) return OnError(parsed);
    absl::StatusOr<PreparedRequest> prepared = Prepare(served_, request);
    if (!prepared.ok()) return OnError(prepared.status());
    {
      std::lock_guard lock(mutex_);
      id_ = prepared->sequence.id = engine_.NewRequestId();
      request_id_ =
          request.request_id().empty() ? absl::StrCat("request-", id_) : request.request_id();
      usage_.set_prompt_tokens(static_cast<uint32_t>(prepared->sequence.prompt.size()));
      text_.emplace(served_.model.tokenizer.get(), std::move(prepared->stop));
    }
    engine_.Submit(std::move(prepared->sequence), shared_from_this());
  }

  void OnToken(TokenEvent event) override {
    const int32_t token = event.token;
    const std::optional<FinishReason> finished = event.finished;
    std::lock_guard lock(mutex_);
    if (ended_) return;
    new_tokens_.push_back(static_cast<uint32_t>(token));
    usage_.set_completion_tokens(usage_.completion_tokens() + 1);
    // The token that stops an answer is not part of its text.
    if (finished != FinishReason::kStop) new_text_ += text_->Push(token);
    if (text_->stopped()) {
      finish_reason_ = v1::FINISH_REASON_STOP;
      if (!finished) engine_.Abort(id_, absl::OkStatus());
    } else if (finished) {
      new_text_ += text_->Finish();
      finish_reason_ = text_->stopped() ? v1::FINISH_REASON_STOP : ToProto(*finished);
    }
    if (finish_reason_ != v1::FINISH_REASON_UNSPECIFIED) ended_.emplace(absl::OkStatus());
    Deliver();
  }

  void OnError(const absl::Status& status) override {
    std::lock_guard lock(mutex_);
    if (ended_) return;
    if (status.code() == absl::StatusCode::kResourceExhausted && context_ != nullptr) {
      context_->AddTrailingMetadata(kRetryPushbackKey, kRetryPushbackMilliseconds);
    }
    ended_ = status;
    Deliver();
  }

  /// The client is gone or its deadline has passed.
  void Cancel() {
    uint64_t id;
    {
      std::lock_guard lock(mutex_);
      id = id_;
    }
    const bool expired = std::chrono::system_clock::now() >= deadline_;
    engine_.Abort(id, expired ? absl::DeadlineExceededError("the request's deadline has passed")
                              : absl::CancelledError("the client cancelled the request"));
  }

 protected:
  /// Passes on what is new. Requires mutex_.
  virtual void Deliver() = 0;

  /// The last answer is delivered or lost, and gRPC's objects are about to go.
  void Close() {
    context_ = nullptr;
    calls_.End();
  }

  const ServedModel& served_;
  Engine& engine_;
  OpenCalls& calls_;

  std::mutex mutex_;
  // Guarded by mutex_.
  grpc::CallbackServerContext* context_;  // null once the call is done
  const std::chrono::system_clock::time_point deadline_ = context_->deadline();
  uint64_t id_ = 0;
  std::string request_id_;
  std::optional<AnswerText> text_;
  std::string new_text_;
  std::vector<uint32_t> new_tokens_;
  v1::FinishReason finish_reason_ = v1::FINISH_REASON_UNSPECIFIED;
  v1::Usage usage_;
  std::optional<absl::Status> ended_;
};

/// GenerateStream: sends what has come since the last write, one write at a time, so that a slow
/// reader gets fewer, larger messages and holds at most its own answer in memory.
class StreamCall : public Call {
 public:
  class Reactor : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
   public:
    explicit Reactor(std::shared_ptr<StreamCall> call) : call_(std::move(call)) {
      call_->reactor_ = this;
    }
    void OnWriteDone(bool ok) override { call_->Written(ok); }
    void OnCancel() override { call_->Cancel(); }
    void OnDone() override {
      call_->Detach();
      delete this;
    }

   private:
    const std::shared_ptr<StreamCall> call_;
  };

  using Call::Call;

 private:
  void Deliver() override {
    if (reactor_ == nullptr || writing_ || finished_) return;
    const bool answered = ended_ && ended_->ok();
    if (!new_text_.empty() || !new_tokens_.empty() || (answered && !final_sent_)) {
      v1::GenerateStreamResponse message;
      if (!first_sent_) message.set_request_id(request_id_);
      first_sent_ = true;
      message.set_text(std::exchange(new_text_, {}));
      message.mutable_token_ids()->Add(new_tokens_.begin(), new_tokens_.end());
      new_tokens_.clear();
      if (answered) {
        message.set_finish_reason(finish_reason_);
        *message.mutable_usage() = usage_;
        final_sent_ = true;
      }
      writing_ = true;
      bytes_ = SerializeAnswer(message);
      reactor_->StartWrite(&bytes_);
    } else if (ended_) {
      finished_ = true;
      reactor_->Finish(ToGrpc(*ended_));
    }
  }

  void Written(bool ok) {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) {  // OnCancel has told the engine
      new_text_.clear();
      new_tokens_.clear();
      if (!ended_) ended_ = absl::CancelledError("the client went away");
      final_sent_ = true;
    }
    Deliver();
  }

  void Detach() {
    std::lock_guard lock(mutex_);
    reactor_ = nullptr;
    Close();
  }

  Reactor* reactor_ = nullptr;  // null after OnDone
  grpc::ByteBuffer bytes_;      // being written
  bool writing_ = false;
  bool first_sent_ = false;
  bool final_sent_ = false;
  bool finished_ = false;
};

class UnaryCall : public Call {
 public:
  class Reactor : public grpc::ServerUnaryReactor {
   public:
    Reactor(std::shared_ptr<UnaryCall> call, grpc::ByteBuffer* response) : call_(std::move(call)) {
      call_->reactor_ = this;
      call_->response_ = response;
    }
    void OnCancel() override { call_->Cancel(); }
    void OnDone() override {
      call_->Detach();
      delete this;
    }

   private:
    const std::shared_ptr<UnaryCall> call_;
  };

  using Call::Call;

 private:
  void Deliver() override {
    if (reactor_ == nullptr || !ended_ || finished_) return;
    finished_ = true;
    if (ended_->ok()) {
      v1::GenerateResponse response;
      response.set_request_id(request_id_);
      response.set_model(served_.name);
      response.set_text(std::move(new_text_));
      response.mutable_token_ids()->Add(new_tokens_.begin(), new_tokens_.end());
      response.set_finish_reason(finish_reason_);
      *response.mutable_usage() = usage_;
      *response_ = SerializeAnswer(response);
    }
    reactor_->Finish(ToGrpc(*ended_));
  }

  void Detach() {
    std::lock_guard lock(mutex_);
    reactor_ = nullptr;
    Close();
  }

  Reactor* reactor_ = nullptr;  // null after OnDone
  grpc::ByteBuffer* response_ = nullptr;
  bool finished_ = false;
};

/// Methods that take text parse it themselves (see ParseClientMessage).
using Methods = v1::Generation::WithRawCallbackMethod_Generate<
    v1::Generation::WithRawCallbackMethod_GenerateStream<
        v1::Generation::WithRawCallbackMethod_Tokenize<
            v1::Generation::WithRawCallbackMethod_Detokenize<
                v1::Generation::WithCallbackMethod_ListModels<v1::Generation::Service>>>>>;

class GenerationService : public Methods {
 public:
  GenerationService(const ServedModel& served, Engine& engine, OpenCalls& calls)
      : served_(served), engine_(engine), calls_(calls) {}

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override {
    auto call = std::make_shared<UnaryCall>(served_, engine_, calls_, context);
    auto* reactor = new UnaryCall::Reactor(call, response);
    call->Start(*request);
    return reactor;
  }

  grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateStream(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) override {
    auto call = std::make_shared<StreamCall>(served_, engine_, calls_, context);
    auto* reactor = new StreamCall::Reactor(call);
    call->Start(*request);
    return reactor;
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* bytes,
                                     grpc::ByteBuffer* answer) override {
    v1::TokenizeRequest request;
    v1::TokenizeResponse response;
    absl::Status status = ParseClientMessage(*bytes, request);
    if (status.ok()) status = TokenizeNow(request, response);
    *answer = SerializeAnswer(response);
    return Answer(context, status);
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* bytes,
                                       grpc::ByteBuffer* answer) override {
    v1::DetokenizeRequest request;
    v1::DetokenizeResponse response;
    absl::Status status = ParseClientMessage(*bytes, request);
    if (status.ok()) status = DetokenizeNow(request, response);
    *answer = SerializeAnswer(response);
    return Answer(context, status);
  }

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest*,
                                       v1::ListModelsResponse* response) override {
    v1::ModelInfo& info = *response->add_models();
    info.set_name(served_.name);
    info.set_architecture(served_.model.family.spec.architecture);
    info.set_max_model_len(served_.max_model_len);
    info.set_vocabulary_size(static_cast<uint32_t>(served_.model.family.spec.vocabulary));
    info.set_has_chat_template(served_.model.chat_template != nullptr);
    return Answer(context, absl::OkStatus());
  }

 private:
  static grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context,
                                          const absl::Status& status) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(status));
    return reactor;
  }

  absl::Status TokenizeNow(const v1::TokenizeRequest& request, v1::TokenizeResponse& response) {
    absl::Status status = CheckModelName(served_, request.model());
    if (!status.ok()) return status;
    absl::StatusOr<std::vector<int32_t>> tokens =
        absl::InvalidArgumentError("the request has no input: set text or chat");
    if (request.has_text()) {
      tokens = EncodeText(served_, request.text(), request.parse_special_tokens());
    } else if (request.has_chat()) {
      absl::StatusOr<std::string> rendered = RenderChat(served_, request.chat());
      if (!rendered.ok()) return rendered.status();
      tokens = EncodeRenderedChat(served_, *rendered);
      response.set_rendered(SpecialFence::Unfence(*rendered));
    }
    if (!tokens.ok()) return tokens.status();
    response.mutable_token_ids()->Add(tokens->begin(), tokens->end());
    return absl::OkStatus();
  }

  absl::Status DetokenizeNow(const v1::DetokenizeRequest& request,
                             v1::DetokenizeResponse& response) {
    absl::Status status = CheckModelName(served_, request.model());
    if (!status.ok()) return status;
    if (served_.model.tokenizer == nullptr) {
      return absl::FailedPreconditionError("the model has no tokenizer");
    }
    std::vector<int32_t> tokens;
    for (const uint32_t id : request.token_ids()) {
      if (id > INT32_MAX) {
        return absl::InvalidArgumentError(absl::StrCat("token id ", id, " is out of range"));
      }
      tokens.push_back(static_cast<int32_t>(id));
    }
    absl::StatusOr<std::string> text =
        served_.model.tokenizer->Decode(tokens, request.skip_special_tokens());
    if (!text.ok()) return text.status();
    response.set_text(*std::move(text));
    return absl::OkStatus();
  }

  const ServedModel& served_;
  Engine& engine_;
  OpenCalls& calls_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeGenerationService(const ServedModel& served, Engine& engine,
                                                     OpenCalls& calls) {
  return std::make_unique<GenerationService>(served, engine, calls);
}

}  // namespace shardline::coordinator

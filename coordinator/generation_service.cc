#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/access.h"
#include "coordinator/client_message.h"
#include "coordinator/generation_calls.h"
#include "coordinator/grpc_status.h"
#include "coordinator/services.h"
#include "shardline/v1/generation.grpc.pb.h"

namespace shardline::coordinator {
namespace {

/// Methods that take text parse it themselves (see ParseClientMessage).
using Methods = v1::Generation::WithRawCallbackMethod_Generate<
    v1::Generation::WithRawCallbackMethod_GenerateStream<
        v1::Generation::WithRawCallbackMethod_Cancel<v1::Generation::WithRawCallbackMethod_Tokenize<
            v1::Generation::WithRawCallbackMethod_Detokenize<
                v1::Generation::WithCallbackMethod_ListModels<v1::Generation::Service>>>>>>;

class GenerationService : public Methods {
 public:
  GenerationService(const ServedModel& served, RequestTable& requests, OpenCalls& calls,
                    const security::BearerTokens& tokens)
      : served_(served), requests_(requests), calls_(calls), tokens_(tokens) {}

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override {
    return StartUnaryCall(requests_, calls_, context, CheckAccess(*context, tokens_), *request,
                          served_.name, response);
  }

  grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateStream(
      grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) override {
    return StartStreamCall(requests_, calls_, context, CheckAccess(*context, tokens_), *request);
  }

  grpc::ServerUnaryReactor* Cancel(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* bytes,
                                   grpc::ByteBuffer* answer) override {
    v1::CancelRequest request;
    return Serve<v1::CancelResponse>(context, *bytes, request, *answer, [&](v1::CancelResponse&) {
      return requests_.Cancel(request.request_id());
    });
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* bytes,
                                     grpc::ByteBuffer* answer) override {
    v1::TokenizeRequest request;
    return Serve<v1::TokenizeResponse>(
        context, *bytes, request, *answer,
        [&](v1::TokenizeResponse& response) { return TokenizeNow(request, response); });
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* bytes,
                                       grpc::ByteBuffer* answer) override {
    v1::DetokenizeRequest request;
    return Serve<v1::DetokenizeResponse>(
        context, *bytes, request, *answer,
        [&](v1::DetokenizeResponse& response) { return DetokenizeNow(request, response); });
  }

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest*,
                                       v1::ListModelsResponse* response) override {
    const absl::Status access = CheckAccess(*context, tokens_);
    if (!access.ok()) return Answer(context, access);
    v1::ModelInfo& info = *response->add_models();
    info.set_name(served_.name);
    info.set_architecture(served_.model.family.spec.architecture);
    info.set_max_model_len(served_.max_model_len);
    info.set_vocabulary_size(static_cast<uint32_t>(served_.model.family.spec.vocabulary));
    info.set_has_chat_template(served_.model.chat_template != nullptr);
    return Answer(context, absl::OkStatus());
  }

 private:
  /// Checks access, parses the bytes, and answers with what `act` fills in.
  template <typename Response, typename Request, typename Act>
  grpc::ServerUnaryReactor* Serve(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer& bytes, Request& request,
                                  grpc::ByteBuffer& answer, const Act& act) {
    Response response;
    absl::Status status = CheckAccess(*context, tokens_);
    if (status.ok()) status = ParseClientMessage(bytes, request);
    if (status.ok()) status = act(response);
    answer = SerializeAnswer(response);
    return Answer(context, status);
  }

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
  RequestTable& requests_;
  OpenCalls& calls_;
  const security::BearerTokens& tokens_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeGenerationService(const ServedModel& served,
                                                     RequestTable& requests, OpenCalls& calls,
                                                     const security::BearerTokens& tokens) {
  return std::make_unique<GenerationService>(served, requests, calls, tokens);
}

}  // namespace shardline::coordinator

#include "coordinator/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/security/server_credentials.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/cluster_status.h"
#include "coordinator/engine.h"
#include "coordinator/expert_load.h"
#include "coordinator/metrics.h"
#include "coordinator/replica_set.h"
#include "coordinator/request_journal.h"
#include "coordinator/request_table.h"
#include "coordinator/served_model.h"
#include "coordinator/server_security.h"
#include "coordinator/services.h"
#include "coordinator/worker_service.h"
#include "model/mapped_file.h"
#include "model/spec.h"

namespace shardline::coordinator {
namespace {

constexpr int kDefaultMaxModelLen = 8192;
constexpr int kMaxReplicas = 256;
// An engine that takes nothing in for so long will not do so again.
constexpr std::chrono::seconds kEngineStuck(10);
// Between two looks at what is measured in seconds: requests that nobody reads, the engine's life.
constexpr int kTicksOfARound = 5;
constexpr int kInt8KvBlock = 32;           // elements of a head that share a scale
constexpr int kReceiveWindow = 256 << 10;  // bytes, of a stream
// The health service's name for «the coordinator works», with or without replicas.
constexpr char kLiveness[] = "liveness";
// What a scrape waits for ranks to say how their experts were used.
constexpr std::chrono::milliseconds kExpertLoadTimeout(1000);
// For streams to take their last word when the server stops.
constexpr auto kCloseTimeout = std::chrono::seconds(2);

template <typename T>
absl::Status CheckAtLeast(const char* flag, T value, T least) {
  if (value >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " is ", value, "; it must be at least ", least));
}

absl::Status CheckOneOf(const char* flag, const std::string& value,
                        std::initializer_list<const char*> allowed) {
  std::string list;
  for (const char* one : allowed) {
    if (value == one) return absl::OkStatus();
    absl::StrAppend(&list, list.empty() ? "" : ", ", one);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(flag, " is \"", value, "\"; it must be one of ", list));
}

/// Tensor and pipeline sizes must suit the model: found before any rank starts.
absl::Status CheckLayout(const model::ModelSpec& spec, const parallel::Layout& layout) {
  return parallel::PlanShards(model::DimsOf(spec, 1), layout).status();
}

/// The content of --expert-placement's file, or nothing without one; it suits model and layout.
absl::StatusOr<std::string> ReadExpertPlacement(const ServerConfig& config,
                                                const parallel::ModelDims& dims) {
  const std::string& path = config.expert_placement;
  if (path.empty()) return "";
  if (!config.layout.expert_parallel) {
    return absl::InvalidArgumentError("--expert-placement needs --enable-expert-parallel");
  }
  const absl::StatusOr<std::unique_ptr<model::MappedFile>> file = model::MappedFile::Open(path);
  if (!file.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--expert-placement: ", file.status().message()));
  }
  const std::span<const std::byte> bytes = (*file)->bytes();
  std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const absl::Status parsed = parallel::ParsePlacements(text, dims.layers, dims.experts,
                                                        config.layout.dp * config.layout.tp)
                                  .status();
  if (parsed.ok()) return text;
  return absl::InvalidArgumentError(
      absl::StrCat("--expert-placement: ", path, ": ", parsed.message()));
}

absl::StatusOr<ServedModel> OpenServedModel(const ServerConfig& config) {
  absl::StatusOr<model::Model> model = model::OpenModel(config.model_path);
  if (!model.ok()) return model.status();
  const model::ModelSpec& spec = model->family.spec;
  const absl::Status fits = CheckLayout(spec, config.layout);
  if (!fits.ok()) return fits;
  if (config.kv_cache_dtype == "int8" && spec.head_dim % kInt8KvBlock != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--kv-cache-dtype int8 needs heads of a multiple of ", kInt8KvBlock,
                     " elements; this model's have ", spec.head_dim));
  }

  ServedModel served;
  absl::StatusOr<std::string> placement = ReadExpertPlacement(config, model::DimsOf(spec, 1));
  if (!placement.ok()) return placement.status();
  served.expert_placement = *std::move(placement);
  std::filesystem::path path(config.model_path);
  if (!path.has_filename()) path = path.parent_path();
  served.name = config.served_model_name;
  if (served.name.empty()) {
    served.name = path.extension() == ".gguf" ? path.stem() : path.filename();
  }
  served.max_model_len =
      config.max_model_len > 0
          ? config.max_model_len
          : static_cast<int>(std::min<int64_t>(spec.max_positions, kDefaultMaxModelLen));
  if (served.max_model_len > spec.max_positions) {
    return absl::InvalidArgumentError(absl::StrCat("--max-model-len is ", served.max_model_len,
                                                   "; the model was made for at most ",
                                                   spec.max_positions, " positions"));
  }
  served.model = *std::move(model);
  if (served.model.tokenizer != nullptr) {
    served.special_fence = SpecialFence(*served.model.tokenizer);
  }
  if (!served.model.chat_template_error.empty()) {
    spdlog::warn("the chat template cannot be used: {}", served.model.chat_template_error);
  }
  return served;
}

v1::LoadPlan MakeLoadPlan(const ServerConfig& config, const ServedModel& served) {
  v1::LoadPlan plan;
  plan.set_model_path(std::filesystem::absolute(config.model_path));
  plan.set_fingerprint(served.model.checkpoint->Fingerprint());
  plan.set_pipeline_parallel_size(config.layout.pp);
  plan.set_data_parallel_size(config.layout.dp);
  plan.set_tensor_parallel_size(config.layout.tp);
  plan.set_expert_parallel(config.layout.expert_parallel);
  plan.set_expert_placement(served.expert_placement);
  plan.set_dtype(config.dtype);
  plan.set_compute_dtype(config.compute_dtype);
  plan.set_quantization(config.quantization);
  plan.set_kv_cache_dtype(config.kv_cache_dtype != "auto" ? config.kv_cache_dtype
                          : config.dtype == "float32"     ? "float32"
                                                          : "bfloat16");
  plan.set_block_size(config.limits.block_size);
  plan.set_max_num_seqs(config.limits.max_num_seqs);
  plan.set_max_num_batched_tokens(config.limits.max_num_batched_tokens);
  plan.set_max_model_len(served.max_model_len);
  plan.set_kv_cache_bytes(config.kv_cache_memory);
  std::random_device random;
  plan.set_coordinator((uint64_t{random()} << 32 | random()) | 1);
  return plan;
}

SchedulerLimits LimitsFor(const ServerConfig& config, const ServedModel& served) {
  SchedulerLimits limits = config.limits;
  limits.sequence = {served.max_model_len,
                     static_cast<int32_t>(served.model.family.spec.vocabulary)};
  limits.kv_window = static_cast<int>(served.model.family.spec.KvWindow());
  return limits;
}

/// Null without --journal.
absl::StatusOr<std::unique_ptr<RequestJournal>> OpenJournal(const ServerConfig& config,
                                                            const ServedModel& served,
                                                            std::vector<JournaledRequest>& found) {
  if (config.journal.empty()) return nullptr;
  RequestJournalOptions options;
  options.files = {config.journal, config.journal_sync, config.journal_segment_bytes};
  options.model = served.name;
  options.fingerprint = served.model.checkpoint->Fingerprint();
  absl::StatusOr<std::unique_ptr<RequestJournal>> journal = RequestJournal::Open(options, found);
  if (journal.ok()) return journal;
  return absl::Status(journal.status().code(),
                      absl::StrCat("--journal: ", journal.status().message()));
}

class GrpcServer : public Server {
 public:
  GrpcServer(const ServerConfig& config, ServedModel served, AccessTokens tokens,
             std::shared_ptr<grpc::ServerCredentials> credentials,
             std::unique_ptr<RequestJournal> journal)
      : config_(config),
        tokens_(std::move(tokens)),
        credentials_(std::move(credentials)),
        served_(std::move(served)),
        journal_(std::move(journal)),
        engine_(MakeEngineOptions()),
        replicas_(MakeReplicaOptions(), config.replicas, engine_),
        requests_({served_, engine_, journal_.get()}),
        generation_(MakeGenerationService(served_, requests_, calls_, tokens_.api)),
        admin_(MakeAdminService(served_, engine_, replicas_, tokens_.admin)),
        worker_(MakeWorkerService(replicas_, tokens_.worker)) {}

  ~GrpcServer() override {
    Stop(/*now=*/true);
    if (journal_ != nullptr) journal_->Close();  // its thread calls the engine, which goes first
  }

  void Restore(const std::vector<JournaledRequest>& requests) {
    requests_.Restore(requests, config_.journal_keep);
  }

  absl::Status Listen() {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    // A second server on the port must be an error, not a silent sharing of its connections.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10'000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5'000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    // As in security::OpenChannel; a large prompt from afar then needs a window that is not small.
    builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kReceiveWindow);
    BoundConnections(config_, !tokens_.empty(), builder);
    builder.AddListeningPort(config_.listen, credentials_, &port_);
    builder.RegisterService(generation_.get());
    builder.RegisterService(admin_.get());
    builder.RegisterService(worker_.get());
    {
      std::lock_guard lock(health_mutex_);
      server_ = builder.BuildAndStart();
      if (port_ == 0) server_.reset();
    }
    if (server_ == nullptr) {
      return absl::UnavailableError(absl::StrCat(
          "cannot listen on ", config_.listen,
          ": the port is taken or the address is not this host's; choose another with --listen "
          "(port 0 takes a free one)"));
    }
    SetServing(engine_.Snapshot().serving);
    SetHealth(kLiveness, true);
    if (config_.metrics_listen.empty()) return absl::OkStatus();
    Metrics::Sources sources;
    sources.status = [this, started = std::chrono::steady_clock::now()] {
      return ClusterStatus(served_.name, engine_, replicas_, started);
    };
    sources.expert_load = [this] { return ExpertLoads(); };
    const absl::StatusOr<int> port = metrics_->Listen(config_.metrics_listen, std::move(sources));
    if (port.ok()) spdlog::info("metrics on port {}, path /metrics", *port);
    return port.status();
  }

  int port() const override { return port_; }
  const std::string& model_name() const override { return served_.name; }
  void Tick() override {
    replicas_.CheckTimeouts();
    if (++ticks_ % kTicksOfARound != 0) return;
    requests_.Tick(config_.stalled_reader_timeout);
    SetHealth(kLiveness, engine_.Turns(kEngineStuck));
  }

  void Stop(bool now) override {
    if (server_ == nullptr) return;
    SetServing(false);
    {
      std::lock_guard lock(health_mutex_);
      stopping_ = true;
    }
    engine_.StopAccepting();
    if (!now && !calls_.WaitUntilNone(config_.drain_timeout)) {
      spdlog::warn("requests still run after {} s (--drain-timeout); they are cut off",
                   config_.drain_timeout.count());
    }
    if (journal_ != nullptr) journal_->Close();  // what is cut off now goes on after a restart
    engine_.AbortAll(absl::UnavailableError(
        "the server stopped before the request was finished; send it again"));
    replicas_.Shutdown("the coordinator stops");
    metrics_->StopListening();  // it reads what goes now
    server_->Shutdown(std::chrono::system_clock::now() + kCloseTimeout);
    server_.reset();
  }

 private:
  EngineOptions MakeEngineOptions() {
    EngineOptions options;
    options.limits = LimitsFor(config_, served_);
    options.step_timeout = config_.step_timeout;
    options.observer = metrics_.get();
    options.on_serving = [this](bool serving) { SetServing(serving); };
    options.around_news = [this](absl::FunctionRef<void()> tell) { calls_.Write(tell); };
    return options;
  }

  ReplicaOptions MakeReplicaOptions() const {
    ReplicaOptions options;
    options.layout = config_.layout;
    options.check_layout = [this](const parallel::Layout& layout) {
      return CheckLayout(served_.model.family.spec, layout);
    };
    options.load = MakeLoadPlan(config_, served_);
    options.vocabulary = static_cast<int32_t>(served_.model.family.spec.vocabulary);
    options.attach_timeout = config_.attach_timeout;
    options.heartbeat_timeout = config_.heartbeat_timeout;
    return options;
  }

  std::vector<v1::GetExpertLoadResponse> ExpertLoads() {
    std::vector<v1::GetExpertLoadResponse> loads;
    if (!served_.HasMixture()) return loads;
    for (const ExpertCounts& counts : replicas_.CollectExpertLoad(kExpertLoadTimeout)) {
      absl::StatusOr<v1::GetExpertLoadResponse> load = MergeExpertLoad(counts);
      if (load.ok()) {
        loads.push_back(*std::move(load));
      } else {
        spdlog::warn("metrics: {}", load.status().ToString());
      }
    }
    return loads;
  }

  void SetServing(bool serving) {
    SetHealth("", serving);
    SetHealth("shardline.v1.Generation", serving);
  }
  void SetHealth(const char* service, bool serving) {
    std::lock_guard lock(health_mutex_);
    if (server_ == nullptr || stopping_) return;
    server_->GetHealthCheckService()->SetServingStatus(service, serving);
  }

  const ServerConfig config_;
  const AccessTokens tokens_;
  const std::shared_ptr<grpc::ServerCredentials> credentials_;
  const ServedModel served_;
  const std::unique_ptr<RequestJournal> journal_;  // null: none; the engine's tokens go there
  std::mutex health_mutex_;  // ranks come and go while the server starts and stops
  bool stopping_ = false;
  std::unique_ptr<grpc::Server> server_;
  const std::unique_ptr<Metrics> metrics_ = Metrics::Create(served_.name);
  OpenCalls calls_;
  Engine engine_;  // its thread sets the health, and writes to the calls
  ReplicaSet replicas_;
  RequestTable requests_;
  std::unique_ptr<grpc::Service> generation_, admin_, worker_;
  int port_ = 0;
  int64_t ticks_ = 0;
};

}  // namespace

absl::Status ServerConfig::Validate() const {
  absl::Status status = parallel::Validate(layout);
  if (status.ok()) status = CheckOneOf("--dtype", dtype, {"auto", "float32", "bfloat16"});
  if (status.ok()) status = CheckOneOf("--compute-dtype", compute_dtype, {"auto", "float32"});
  if (status.ok()) {
    status = CheckOneOf("--quantization", quantization, {"none", "int8", "int4"});
  }
  if (status.ok()) {
    status =
        CheckOneOf("--kv-cache-dtype", kv_cache_dtype, {"auto", "float32", "bfloat16", "int8"});
  }
  if (status.ok()) status = CheckAtLeast<int64_t>("--kv-cache-memory", kv_cache_memory, 0);
  if (status.ok()) status = CheckAtLeast("--replicas", replicas, 1);
  if (status.ok() && replicas > kMaxReplicas) {
    status = absl::InvalidArgumentError(
        absl::StrCat("--replicas is ", replicas, "; it may be ", kMaxReplicas, " at most"));
  }
  if (status.ok()) status = CheckAtLeast("--max-model-len", max_model_len, 0);
  if (status.ok()) status = CheckAtLeast("--max-num-seqs", limits.max_num_seqs, 1);
  if (status.ok()) {
    status = CheckAtLeast("--max-num-batched-tokens", limits.max_num_batched_tokens, 1);
  }
  if (status.ok()) status = CheckAtLeast("--max-queued-requests", limits.max_queued_requests, 1);
  if (status.ok()) {
    status = CheckAtLeast<int64_t>("--max-queued-tokens", limits.max_queued_tokens, 1);
  }
  if (status.ok()) {
    status = CheckAtLeast<int64_t>("--journal-segment-bytes", journal_segment_bytes, 4096);
  }
  if (status.ok()) status = CheckSecurity(*this);
  if (status.ok() && (limits.max_num_seqs > 65536 || limits.max_num_batched_tokens > (1 << 20))) {
    status = absl::InvalidArgumentError(
        "--max-num-seqs may be 65536 and --max-num-batched-tokens 1048576 at most");
  }
  return status;
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerConfig& config) {
  const absl::Status valid = config.Validate();
  if (!valid.ok()) return valid;
  absl::StatusOr<ServedModel> served = OpenServedModel(config);
  if (!served.ok()) return served.status();
  absl::StatusOr<AccessTokens> tokens = AccessTokens::Read(config);
  if (!tokens.ok()) return tokens.status();
  absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> credentials =
      security::MakeServerCredentials(config.tls);
  if (!credentials.ok()) return credentials.status();
  std::vector<JournaledRequest> earlier;
  absl::StatusOr<std::unique_ptr<RequestJournal>> journal = OpenJournal(config, *served, earlier);
  if (!journal.ok()) return journal.status();
  auto server = std::make_unique<GrpcServer>(config, *std::move(served), *std::move(tokens),
                                             *std::move(credentials), *std::move(journal));
  server->Restore(earlier);
  const absl::Status listening = server->Listen();
  if (!listening.ok()) return listening;
  return server;
}

}  // namespace shardline::coordinator

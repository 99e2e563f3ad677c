// shardline-coordinator: owns requests; see docs/flow.md.
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <ctime>
#include <iostream>

#include "absl/synchronization/mutex.h"
#include "coordinator/replica.h"
#include "coordinator/server.h"
#include "logging/log.h"

namespace {

using shardline::coordinator::Server;
using shardline::coordinator::ServerConfig;

// Exit codes as `shardline --help` lists them.
constexpr int kExitUsage = 2;
constexpr int kExitStart = 7;

void AddFlags(CLI::App& app, ServerConfig& config) {
  const auto option = [&app](const std::string& name, auto& value, const std::string& help) {
    std::string variable = "SHARDLINE_" + name;
    for (char& c : variable) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
    app.add_option("--" + name, value, help)->envname(variable)->capture_default_str();
  };
  const auto seconds = [&app](const std::string& name, std::chrono::seconds& value,
                              const std::string& help) {
    std::string variable = "SHARDLINE_" + name;
    for (char& c : variable) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
    app.add_option_function<int>(
           "--" + name, [&value](int count) { value = std::chrono::seconds(count); }, help)
        ->envname(variable)
        ->check(CLI::Range(1, 86400))
        ->default_str(std::to_string(value.count()));
  };
  app.add_option("MODEL", config.model_path,
                 "A .gguf file or a Hugging Face directory; the ranks must see the same path")
      ->required()
      ->envname("SHARDLINE_MODEL");
  option("listen", config.listen, "Address and port for clients and ranks; port 0: a free one");
  option("metrics-listen", config.metrics_listen,
         "Address and port of Prometheus' metrics, at /metrics; default: none");
  option("served-model-name", config.served_model_name,
         "Name for clients (default: from the path)");
  option("replicas", config.replicas,
         "Copies of the model that are expected, each with ranks of its own; more may join");
  option("tensor-parallel-size", config.layout.tp, "Ranks that share each layer");
  option("pipeline-parallel-size", config.layout.pp, "Stages that the layers are split in");
  option("data-parallel-size", config.layout.dp,
         "Groups of a stage that each run sequences of their own; needs --enable-expert-parallel");
  app.add_flag("--enable-expert-parallel", config.layout.expert_parallel,
               "Mixture of experts: whole experts, placed over a stage's ranks")
      ->envname("SHARDLINE_ENABLE_EXPERT_PARALLEL");
  option("expert-placement", config.expert_placement,
         "Where experts go: a file as `shardline status --experts --save-placement` makes");
  option("dtype", config.dtype, "Weights: auto (as stored), float32, bfloat16");
  option("compute-dtype", config.compute_dtype,
         "Products: float32, or auto: as fast as the device can, rounding activations to bfloat16 "
         "or int8 beside weights of such formats");
  option("quantization", config.quantization,
         "Float weights become, when loaded: none (as they are), int8, int4");
  option("kv-cache-dtype", config.kv_cache_dtype,
         "KV cache: auto (float32 with --dtype float32, else bfloat16), float32, bfloat16, int8");
  option("kv-cache-memory", config.kv_cache_memory, "Bytes of KV cache a rank; 0: automatic");
  option("max-model-len", config.max_model_len,
         "Longest prompt and answer together, in tokens; 0: the model's, at most 8192");
  option("max-num-seqs", config.limits.max_num_seqs,
         "Sequences that run at once, in each data-parallel group");
  option("max-num-batched-tokens", config.limits.max_num_batched_tokens,
         "Tokens in one step of a data-parallel group: longer prompts are processed in chunks");
  option("enable-prefix-caching", config.limits.enable_prefix_caching,
         "Keep computed prompts' KV blocks for requests that begin the same way: true, false");
  option("max-queued-requests", config.limits.max_queued_requests, "Requests that may wait");
  option("max-queued-tokens", config.limits.max_queued_tokens, "Prompt tokens that may wait");
  option("server-certificate", config.tls.certificate,
         "PEM file: the certificate to serve over TLS with, and its chain");
  option("server-key", config.tls.key, "PEM file: the certificate's private key");
  option("client-ca", config.tls.client_ca,
         "PEM file: clients and ranks must show a certificate that this authority signed");
  option("api-token-file", config.api_token_file,
         "Tokens of clients, one a line: calls must bear one (with the two files below)");
  option("admin-token-file", config.admin_token_file, "Tokens of administrators");
  option("worker-token-file", config.worker_token_file, "Tokens of ranks");
  option("max-request-bytes", config.max_request_bytes,
         "Bytes of any message; 0: 4 MiB, or more where a step's result needs it");
  option("journal", config.journal,
         "Directory in which requests and their tokens outlive this process; default: none");
  app.add_flag("--journal-sync", config.journal_sync,
               "They outlive a loss of power too: each write waits for the device")
      ->envname("SHARDLINE_JOURNAL_SYNC");
  seconds("journal-keep", config.journal_keep,
          "Seconds that the journal's requests await their readers after a restart");
  option("journal-segment-bytes", config.journal_segment_bytes,
         "Size from which the journal is rewritten without what is over");
  seconds("stalled-reader-timeout", config.stalled_reader_timeout,
          "Seconds that a client may take nothing of its answer before its call is cancelled");
  seconds("attach-timeout", config.attach_timeout, "Seconds from the first rank to the last");
  seconds("step-timeout", config.step_timeout, "Seconds until a silent replica counts as lost");
  app.add_option_function<double>(
         "--heartbeat-timeout",
         [&config](double value) {
           config.heartbeat_timeout = std::chrono::milliseconds(static_cast<int>(value * 1000));
         },
         "Seconds of silence after which a rank is lost; 0: 4, or 0.7 when seen to be stopped")
      ->envname("SHARDLINE_HEARTBEAT_TIMEOUT")
      ->check(CLI::Range(0.0, 3600.0))
      ->default_str("0");
  seconds("drain-timeout", config.drain_timeout, "Seconds that running requests get at a stop");
}

}  // namespace

int main(int argc, char** argv) {
  // Distributions build Abseil with its check for deadlocks: each of gRPC's locks goes through a
  // graph of all locks.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  ServerConfig config;
  shardline::logging::LogOptions log{.process = "coordinator"};
  CLI::App app(
      "Shardline coordinator: schedules requests over the ranks of a replica and serves "
      "them over gRPC.\nStart ranks with: mpirun -n N shardline-worker --coordinator "
      "HOST:PORT\n`shardline up MODEL` does both on one machine.");
  app.set_version_flag("--version", SHARDLINE_VERSION);
  AddFlags(app, config);
  app.add_option("--log-level", log.level, "trace, debug, info, warn, error")
      ->envname("SHARDLINE_LOG_LEVEL")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}))
      ->capture_default_str();
  app.add_option("--log-format", log.format, "text, or json: one object a line")
      ->envname("SHARDLINE_LOG_FORMAT")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  shardline::logging::StartLogging(log);

  // Blocked in every thread; this one takes them in with sigtimedwait.
  sigset_t stop_signals;
  sigemptyset(&stop_signals);
  sigaddset(&stop_signals, SIGINT);
  sigaddset(&stop_signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &stop_signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ,
              SIG_IGN);  // a journal at the limit of file sizes is an error like a full disk

  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(config);
  if (!server.ok()) {
    std::cerr << "error: " << server.status().message() << std::endl;
    return server.status().code() == absl::StatusCode::kUnavailable ? kExitStart : kExitUsage;
  }
  const std::string host = config.listen.substr(0, config.listen.rfind(':'));
  std::cout << "listening on " << host << ":" << (*server)->port() << std::endl;
  spdlog::info("model {}: waiting for {} x {} ranks", (*server)->model_name(), config.replicas,
               config.layout.world());

  const timespec tick{0, std::chrono::nanoseconds(shardline::coordinator::Replica::kTick).count()};
  while (true) {
    const int signal = sigtimedwait(&stop_signals, nullptr, &tick);
    if (signal == SIGINT || signal == SIGTERM) break;
    (*server)->Tick();
  }
  spdlog::info("stopping: running requests get {} s", config.drain_timeout.count());
  // A second signal ends the wait.
  pthread_sigmask(SIG_UNBLOCK, &stop_signals, nullptr);
  (*server)->Stop(/*now=*/false);
  spdlog::info("stopped");
  return 0;
}

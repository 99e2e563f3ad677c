#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/scheduler.h"
#include "parallel/layout.h"
#include "security/tls.h"

namespace shardline::coordinator {

/// What the operator chooses. Filled in main.cc from flags and environment, const afterwards.
struct ServerConfig {
  std::string model_path;
  std::string served_model_name;  // empty: the last part of the path
  std::string listen = "127.0.0.1:50051";
  std::string metrics_listen;  // HOST:PORT of Prometheus' metrics; empty: none

  int replicas = 1;                       // expected, of this layout; others may join
  parallel::Layout layout;                // of a replica
  std::string expert_placement;           // a file; empty: round-robin
  std::string dtype = "auto";             // auto (as stored), float32, bfloat16
  std::string compute_dtype = "float32";  // or auto: low precision where it is fast
  std::string quantization = "none";      // of float weights at load: none, int8, int4
  std::string kv_cache_dtype = "auto";    // auto (float32 with dtype float32, else bfloat16), ...
  int64_t kv_cache_memory = 0;            // bytes a rank; 0: what the host allows
  int max_model_len = 0;                  // tokens; 0: the model's own
  SchedulerLimits limits;

  security::ServerTls tls;
  // Files of bearer tokens: of clients, of administrators, of ranks. All or none.
  std::string api_token_file, admin_token_file, worker_token_file;
  int max_request_bytes = 0;  // of any message; 0: 4 MiB, or what a step's result needs

  std::string journal;                    // a directory; empty: none
  bool journal_sync = false;              // each record outlasts a loss of power
  std::chrono::seconds journal_keep{60};  // how long requests await their readers after a restart
  int64_t journal_segment_bytes = int64_t{64} << 20;

  std::chrono::seconds attach_timeout{60};
  std::chrono::seconds step_timeout{60};
  std::chrono::milliseconds heartbeat_timeout{0};  // 0: see ReplicaOptions
  std::chrono::seconds drain_timeout{30};
  std::chrono::seconds stalled_reader_timeout{60};

  /// kInvalidArgument naming the flag, its value and what is allowed.
  absl::Status Validate() const;
};

/// The coordinator: opens the model, listens, serves until told to stop.
class Server {
 public:
  /// Everything that can be wrong with model, layout or address is found here.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerConfig& config);
  virtual ~Server() = default;

  /// The port that is listened on.
  virtual int port() const = 0;
  virtual const std::string& model_name() const = 0;
  /// To be called every Replica::kTick: notices ranks that are silent or never attach.
  virtual void Tick() = 0;
  /// Stops accepting, reports NOT_SERVING, lets what runs finish within the drain timeout (or at
  /// once when `now`), lets the ranks go and stops listening.
  virtual void Stop(bool now) = 0;
};

}  // namespace shardline::coordinator

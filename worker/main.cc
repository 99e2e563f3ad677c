// shardline-worker: one rank of a replica, started by mpirun; see docs/flow.md.
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <random>
#include <span>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kernels/device.h"
#include "parallel/mpi_communicator.h"
#include "worker/control_client.h"
#include "worker/rank.h"

namespace {

using shardline::parallel::Communicator;
using shardline::parallel::MpiSession;

// Exit codes as `shardline --help` lists them.
constexpr int kExitUsage = 2;
constexpr int kExitCoordinatorLost = 3;
constexpr int kExitFailed = 7;

// How long the other ranks get to follow before this one leaves without them.
constexpr auto kLeaveTimeout = std::chrono::seconds(3);

int RanksOnHost() {
  const char* text = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  const int ranks = text == nullptr ? 1 : std::atoi(text);
  return ranks < 1 ? 1 : ranks;
}

/// Rank 0's choice, told to all.
absl::StatusOr<std::string> AgreeOnLaunchId(std::string chosen, Communicator& world) {
  if (!chosen.empty()) return chosen;
  uint64_t id = std::random_device{}();
  id = id << 32 | std::random_device{}();
  const absl::Status told = world.Broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
  if (!told.ok()) return told;
  return absl::StrCat(absl::Hex(id, absl::kZeroPad16));
}

/// A rank may be inside a collective that its peers will never join: then it must leave alone.
void LeaveLater(int exit_code) {
  std::thread([exit_code] {
    std::this_thread::sleep_for(kLeaveTimeout);
    _exit(exit_code);
  }).detach();
}

}  // namespace

int main(int argc, char** argv) {
  std::string coordinator = "127.0.0.1:50051";
  std::string launch_id;
  std::string log_level = "info";
  std::string replica = "0";
  shardline::parallel::Layout layout{0, 0, 0};  // 0: not given
  int ranks_on_host = 0;
  int threads = 0;
  int attach_timeout = 60;
  shardline::security::ClientSecurity security;
  CLI::App app(
      "Shardline worker: one rank of a replica. Start one per device:\n"
      "  mpirun -n N shardline-worker --coordinator HOST:PORT");
  app.add_option("--coordinator", coordinator, "The coordinator's HOST:PORT")
      ->envname("SHARDLINE_COORDINATOR")
      ->capture_default_str();
  app.add_option("--threads", threads,
                 "Compute threads of this rank; 0: the host's CPUs shared among its ranks")
      ->envname("SHARDLINE_THREADS")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--attach-timeout", attach_timeout, "Seconds to look for the coordinator")
      ->envname("SHARDLINE_ATTACH_TIMEOUT")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str();
  app.add_option("--replica", replica, "The model copy that these ranks are, by name")
      ->envname("SHARDLINE_REPLICA")
      ->capture_default_str();
  const auto size = [&app](const std::string& axis, int& value) {
    std::string variable = "SHARDLINE_" + axis + "_PARALLEL_SIZE";
    for (char& c : variable) c = static_cast<char>(std::toupper(c));
    app.add_option("--" + axis + "-parallel-size", value,
                   "Layout of this replica; default: the coordinator's")
        ->envname(variable)
        ->check(CLI::Range(1, 4096));
  };
  size("tensor", layout.tp);
  size("pipeline", layout.pp);
  size("data", layout.dp);
  app.add_option("--ranks-on-host", ranks_on_host,
                 "Ranks that share this host's CPUs and memory; 0: those of this launch")
      ->envname("SHARDLINE_RANKS_ON_HOST")
      ->check(CLI::Range(0, 65536))
      ->capture_default_str();
  const auto file = [&app](const std::string& name, std::string& value, const std::string& help) {
    std::string variable = "SHARDLINE_" + name;
    for (char& c : variable) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
    app.add_option("--" + name, value, help)->envname(variable);
  };
  file("tls-ca", security.tls.ca,
       "PEM file: who signs the coordinator's certificate; turns TLS on");
  file("tls-certificate", security.tls.certificate, "PEM file: this rank's certificate");
  file("tls-key", security.tls.key, "PEM file: its private key");
  file("tls-server-name", security.tls.server_name,
       "Name in the coordinator's certificate (default: the address's host)");
  file("token-file", security.token_file, "File whose first line is this rank's token");
  app.add_option("--launch-id", launch_id, "Names this launch; default: random")
      ->envname("SHARDLINE_LAUNCH_ID");
  app.add_option("--log-level", log_level, "trace, debug, info, warn, error")
      ->envname("SHARDLINE_LOG_LEVEL")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}))
      ->capture_default_str();
  app.set_version_flag("--version", SHARDLINE_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  std::signal(SIGPIPE, SIG_IGN);

  absl::StatusOr<std::unique_ptr<MpiSession>> session = MpiSession::Start(&argc, &argv);
  if (!session.ok()) {
    std::cerr << "error: " << session.status().message() << std::endl;
    return kExitFailed;
  }
  absl::StatusOr<std::unique_ptr<Communicator>> world = (*session)->World();
  if (!world.ok()) {
    std::cerr << "error: " << world.status().message() << std::endl;
    (*session)->Abort(kExitFailed);
  }
  spdlog::set_default_logger(
      spdlog::stderr_color_mt(absl::StrCat("rank ", (*world)->rank(), "/", (*world)->size())));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %n: %v");
  spdlog::set_level(spdlog::level::from_str(log_level));
  const auto fail = [&session](const absl::Status& status, int exit_code) {
    spdlog::error("{}", std::string(status.message()));
    (*session)->Abort(exit_code);
  };

  if (ranks_on_host == 0) ranks_on_host = RanksOnHost();
  shardline::worker::RankOptions options{.ranks_on_host = ranks_on_host, .replica = replica};
  if (layout.pp + layout.dp + layout.tp > 0) {
    options.layout = {std::max(1, layout.pp), std::max(1, layout.dp), std::max(1, layout.tp)};
  }
  absl::StatusOr<std::unique_ptr<shardline::kernels::Device>> device =
      shardline::kernels::Device::Create(
          {shardline::kernels::DeviceKind::kCpu, threads, ranks_on_host});
  if (!device.ok()) fail(device.status(), kExitFailed);
  const absl::StatusOr<std::string> id = AgreeOnLaunchId(launch_id, **world);
  if (!id.ok()) fail(id.status(), kExitFailed);
  absl::StatusOr<std::unique_ptr<shardline::worker::ControlClient>> client =
      shardline::worker::ControlClient::Connect(coordinator, security,
                                                std::chrono::seconds(attach_timeout));
  if (!client.ok()) {
    const bool lost = client.status().code() == absl::StatusCode::kUnavailable;
    fail(client.status(), lost ? kExitCoordinatorLost : kExitUsage);
  }
  (*client)->NotifyEnd([](const absl::Status&) { LeaveLater(kExitCoordinatorLost); });

  options.launch_id = *id;
  const absl::Status ended = shardline::worker::RunRank(options, **device, **world, **client);
  if (!ended.ok()) {
    fail(ended,
         ended.code() == absl::StatusCode::kUnavailable ? kExitCoordinatorLost : kExitFailed);
  }
  LeaveLater(0);  // should another rank not come to MPI's farewell
  client->reset();
  world->reset();
  session->reset();
  return 0;
}

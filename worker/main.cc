// shardline-worker: one rank of a replica, started by mpirun; see docs/flow.md.
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <optional>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/device.h"
#include "logging/log.h"
#include "parallel/device_groups.h"
#include "parallel/mpi_communicator.h"
#include "worker/control_client.h"
#include "worker/cpu_share.h"
#include "worker/rank.h"

namespace {

using shardline::kernels::Device;
using shardline::parallel::Communicator;
using shardline::parallel::HostPlace;
using shardline::parallel::MpiSession;

// Exit codes as `shardline --help` lists them.
constexpr int kExitUsage = 2;
constexpr int kExitCoordinatorLost = 3;
constexpr int kExitFailed = 7;

// How long the other ranks get to follow before this one leaves without them.
constexpr auto kLeaveTimeout = std::chrono::seconds(3);

/// Where and with whom this rank computes.
struct Place {
  std::string device = "cpu";
  bool fast_products = false;
  std::string cuda_graphs = "on";
  int threads = 0;
  std::string cpu_affinity = "none";
  int ranks_on_host = 0;
  int first_rank_on_host = 0;
  std::string bootstrap = "mpi";
  int rank = -1;  // without MPI
  int world_size = 0;

  bool with_mpi() const { return bootstrap == "mpi"; }
};

void AddPlaceFlags(CLI::App& app, Place& place) {
  app.add_option("--device", place.device,
                 "cpu, cuda, or auto: the GPU if this build and this host have one")
      ->envname("SHARDLINE_DEVICE")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  app.add_flag("--fast-products", place.fast_products,
               "On a GPU, long steps through cuBLASLt: faster, but the same request may give other "
               "tokens in other company")
      ->envname("SHARDLINE_FAST_PRODUCTS");
  app.add_option(
         "--cuda-graphs", place.cuda_graphs,
         "On a GPU, on: decode steps are recorded at the start and then launched as a whole; "
         "off: kernel by kernel")
      ->envname("SHARDLINE_CUDA_GRAPHS")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str();
  app.add_option("--threads", place.threads,
                 "Compute threads of this rank; 0: the host's CPUs shared among its ranks")
      ->envname("SHARDLINE_THREADS")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option(
         "--cpu-affinity", place.cpu_affinity,
         "share: of the CPUs that the launcher gave to all ranks of this host this one keeps to an "
         "equal part, node by node; none: where the system puts it")
      ->envname("SHARDLINE_CPU_AFFINITY")
      ->check(CLI::IsMember({"none", "share"}))
      ->capture_default_str();
  app.add_option("--ranks-on-host", place.ranks_on_host,
                 "Ranks that share this host's CPUs, GPUs and memory; 0: those of this launch")
      ->envname("SHARDLINE_RANKS_ON_HOST")
      ->check(CLI::Range(0, 65536))
      ->capture_default_str();
  app.add_option("--first-rank-on-host", place.first_rank_on_host,
                 "Ranks of other launches that come before this one's on this host: it takes the "
                 "GPUs after theirs")
      ->envname("SHARDLINE_FIRST_RANK_ON_HOST")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  app.add_option("--bootstrap", place.bootstrap,
                 "How ranks meet: mpi (mpirun starts them), or coordinator (any supervisor starts "
                 "them, with --rank and --world-size; GPUs only)")
      ->envname("SHARDLINE_BOOTSTRAP")
      ->check(CLI::IsMember({"mpi", "coordinator"}))
      ->capture_default_str();
  app.add_option("--rank", place.rank, "This rank's number, with --bootstrap=coordinator")
      ->envname("SHARDLINE_RANK");
  app.add_option("--world-size", place.world_size,
                 "Ranks of the replica, with --bootstrap=coordinator")
      ->envname("SHARDLINE_WORLD_SIZE");
}

absl::Status CheckPlace(const Place& place) {
  if (place.with_mpi()) return absl::OkStatus();
  if (place.device != "cuda") {
    return absl::InvalidArgumentError(
        "--bootstrap=coordinator needs --device=cuda: ranks on CPUs talk over MPI");
  }
  if (place.world_size < 1 || place.rank < 0 || place.rank >= place.world_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--bootstrap=coordinator needs --world-size above 0 and --rank below it; found ",
        "--rank=", place.rank, " --world-size=", place.world_size));
  }
  return absl::OkStatus();
}

/// The part of this host's CPUs that is this rank's, by place.cpu_affinity.
absl::Status KeepToShare(const Place& place, int rank_of_host, int ranks, int& threads) {
  if (place.cpu_affinity != "share") return absl::OkStatus();
  // What the device would choose, before this process sees its part alone.
  if (threads == 0) threads = std::max(1, shardline::kernels::cpu::UsableCpus() / ranks);
  const std::vector<int> cpus =
      shardline::worker::CpuShare(shardline::worker::AllowedCpus(), rank_of_host, ranks);
  if (cpus.empty()) return absl::OkStatus();
  spdlog::info("{} CPUs from CPU {} on are this rank's", cpus.size(), cpus.front());
  return shardline::worker::RunOn(cpus);
}

/// `host`: of this launch.
absl::StatusOr<std::unique_ptr<Device>> CreateDevice(const Place& place, const HostPlace& host) {
  shardline::kernels::DeviceOptions options;
  options.threads = place.threads;
  options.processes = place.ranks_on_host > 0 ? place.ranks_on_host : host.ranks;
  options.ordinal = place.first_rank_on_host + host.rank;
  options.fast_products = place.fast_products;
  const absl::Status kept =
      KeepToShare(place, options.ordinal, std::max(1, options.processes), options.threads);
  if (!kept.ok()) return kept;
  if (place.device != "cpu") {
    options.kind = shardline::kernels::DeviceKind::kCuda;
    absl::StatusOr<std::unique_ptr<Device>> device = Device::Create(options);
    if (device.ok() || place.device == "cuda") return device;
    spdlog::info("computing on the CPU: {}", std::string(device.status().message()));
  }
  options.kind = shardline::kernels::DeviceKind::kCpu;
  return Device::Create(options);
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

/// A rank may be inside a collective that its peers will never join: then it must leave alone. Ends
/// the process at a set time, unless that is put off.
class LeaveTimer {
 public:
  LeaveTimer() {
    std::thread([this] { Run(); }).detach();
  }
  void Set(std::chrono::seconds timeout, int exit_code) {
    std::lock_guard lock(mutex_);
    at_ = std::chrono::steady_clock::now() + timeout;
    exit_code_ = exit_code;
    changed_.notify_one();
  }
  void PutOff() {
    std::lock_guard lock(mutex_);
    at_.reset();
  }

 private:
  [[noreturn]] void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      if (at_ && std::chrono::steady_clock::now() >= *at_) _exit(exit_code_);
      if (at_) {
        changed_.wait_until(lock, std::chrono::steady_clock::time_point(*at_));
      } else {
        changed_.wait(lock);
      }
    }
  }

  std::mutex mutex_;
  // Guarded by mutex_.
  std::condition_variable changed_;
  std::optional<std::chrono::steady_clock::time_point> at_;
  int exit_code_ = 0;
};

void LeaveLater(LeaveTimer& timer, int exit_code) { timer.Set(kLeaveTimeout, exit_code); }

}  // namespace

int main(int argc, char** argv) {
  // Distributions build Abseil with its check for deadlocks: each of gRPC's locks goes through a
  // graph of all locks.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  std::string coordinator = "127.0.0.1:50051";
  std::string launch_id;
  shardline::logging::LogOptions log;
  std::string replica = "0";
  shardline::parallel::Layout layout{0, 0, 0};  // 0: not given
  Place place;
  int attach_timeout = 60;
  int reattach_timeout = 60;
  shardline::security::ClientSecurity security;
  CLI::App app(
      "Shardline worker: one rank of a replica. Start one per device:\n"
      "  mpirun -n N shardline-worker --coordinator HOST:PORT");
  app.add_option("--coordinator", coordinator, "The coordinator's HOST:PORT")
      ->envname("SHARDLINE_COORDINATOR")
      ->capture_default_str();
  AddPlaceFlags(app, place);
  app.add_option("--attach-timeout", attach_timeout, "Seconds to look for the coordinator")
      ->envname("SHARDLINE_ATTACH_TIMEOUT")
      ->check(CLI::Range(1, 86400))
      ->capture_default_str();
  app.add_option(
         "--reattach-timeout", reattach_timeout,
         "Seconds to look for another coordinator, with the weights that are there, when it "
         "is lost; 0: leave (as ranks without MPI do)")
      ->envname("SHARDLINE_REATTACH_TIMEOUT")
      ->check(CLI::Range(0, 86400))
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
  app.add_option("--log-level", log.level, "trace, debug, info, warn, error")
      ->envname("SHARDLINE_LOG_LEVEL")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}))
      ->capture_default_str();
  app.add_option("--log-format", log.format, "text, or json: one object a line")
      ->envname("SHARDLINE_LOG_FORMAT")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  app.set_version_flag("--version", SHARDLINE_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  std::signal(SIGPIPE, SIG_IGN);

  if (const absl::Status valid = CheckPlace(place); !valid.ok()) {
    std::cerr << "error: " << valid.message() << std::endl;
    return kExitUsage;
  }
  std::unique_ptr<MpiSession> session;
  std::unique_ptr<Communicator> world, agreement;
  HostPlace host;
  if (place.with_mpi()) {
    absl::StatusOr<std::unique_ptr<MpiSession>> started = MpiSession::Start(&argc, &argv);
    if (!started.ok()) {
      std::cerr << "error: " << started.status().message() << std::endl;
      return kExitFailed;
    }
    session = *std::move(started);
    absl::StatusOr<std::unique_ptr<Communicator>> ranks = session->World();
    const absl::StatusOr<HostPlace> found =
        ranks.ok() ? session->Host() : absl::StatusOr<HostPlace>(ranks.status());
    if (!found.ok()) {
      std::cerr << "error: " << found.status().message() << std::endl;
      session->Abort(kExitFailed);
    }
    host = *found;
    world = *std::move(ranks);
    ranks = session->World();
    if (!ranks.ok()) {
      std::cerr << "error: " << ranks.status().message() << std::endl;
      session->Abort(kExitFailed);
    }
    agreement = *std::move(ranks);
    place.rank = world->rank();
    place.world_size = world->size();
  }
  log.process = absl::StrCat("rank ", place.rank, "/", place.world_size);
  shardline::logging::StartLogging(log);
  const auto fail = [&session](const absl::Status& status, int exit_code) {
    spdlog::error("{}", std::string(status.message()));
    if (session != nullptr) session->Abort(exit_code);
    std::_Exit(exit_code);
  };

  shardline::worker::RankOptions options{.replica = replica};
  if (layout.pp + layout.dp + layout.tp > 0) {
    options.layout = {std::max(1, layout.pp), std::max(1, layout.dp), std::max(1, layout.tp)};
  }
  options.graphs = place.cuda_graphs == "on";
  const absl::StatusOr<std::unique_ptr<Device>> device = CreateDevice(place, host);
  if (!device.ok()) fail(device.status(), kExitFailed);
  if (world != nullptr) {
    absl::StatusOr<std::unique_ptr<Communicator>> groups =
        shardline::parallel::ForDevice(**device, std::move(world), {});
    if (!groups.ok()) fail(groups.status(), kExitFailed);
    world = *std::move(groups);
    const absl::StatusOr<std::string> id = AgreeOnLaunchId(launch_id, *world);
    if (!id.ok()) fail(id.status(), kExitFailed);
    launch_id = *id;
  } else if (launch_id.empty()) {
    launch_id = "bootstrap by the coordinator";  // which tells epochs apart by itself
  }
  auto* const timer = new LeaveTimer;  // its thread goes with the process
  const auto connect = [&](int timeout) {
    return shardline::worker::ControlClient::Connect(coordinator, security,
                                                     std::chrono::seconds(timeout));
  };
  absl::StatusOr<std::unique_ptr<shardline::worker::ControlClient>> client =
      connect(attach_timeout);
  if (!client.ok()) {
    const bool lost = client.status().code() == absl::StatusCode::kUnavailable;
    fail(client.status(), lost ? kExitCoordinatorLost : kExitUsage);
  }
  shardline::worker::Reattaching reattaching;
  if (reattach_timeout > 0) reattaching.ranks = agreement.get();
  reattaching.connect = [&] {
    auto next = connect(reattach_timeout);
    if (next.ok()) timer->PutOff();
    return next;
  };
  reattaching.on_end = [&](bool again) {
    if (again) return timer->Set(std::chrono::seconds(reattach_timeout), kExitCoordinatorLost);
    LeaveLater(*timer, kExitCoordinatorLost);
  };

  options.launch_id = launch_id;
  const absl::Status ended =
      world != nullptr
          ? shardline::worker::RunRank(options, **device, *world, *std::move(client), reattaching)
          : shardline::worker::RunRankWithoutMpi(options, **device, place.rank, place.world_size,
                                                 *std::move(client), reattaching);
  if (!ended.ok()) {
    fail(ended,
         ended.code() == absl::StatusCode::kUnavailable ? kExitCoordinatorLost : kExitFailed);
  }
  LeaveLater(*timer, 0);  // should another rank not come to MPI's farewell
  agreement.reset();
  world.reset();
  session.reset();
  return 0;
}

// Latency of the communicator's calls beside plain MPI's, of rank 0:
//   mpirun -n 2 collectives_bench

#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <span>
#include <thread>
#include <vector>

#include "parallel/mpi_communicator.h"

namespace shardline::parallel {
namespace {

struct Times {
  double median = 0;  // µs
  double p99 = 0;
};

Times Measure(
    int repeats, const std::function<void()>& call, const std::function<void()>& before = [] {}) {
  for (int i = 0; i < repeats / 10; ++i) call();
  std::vector<double> times(repeats);
  for (double& time : times) {
    before();
    const auto start = std::chrono::steady_clock::now();
    call();
    time =
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  }
  std::sort(times.begin(), times.end());
  return {.median = times[repeats / 2], .p99 = times[repeats * 99 / 100]};
}

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void Check(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  MPI_Abort(MPI_COMM_WORLD, 1);
}

void Bench(Communicator& world) {
  const bool prints = world.rank() == 0;
  if (prints) {
    std::printf("%d ranks, µs: median (99th percentile)\n", world.size());
    std::printf("%9s %22s %22s\n", "bytes", "AllReduceSum", "MPI_Allreduce");
  }
  for (const size_t bytes :
       {4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 1 << 20}) {
    std::vector<float> data(bytes / sizeof(float));
    const int repeats = bytes > 100000 ? 500 : 3000;
    Check(world.Barrier());
    const Times ours = Measure(repeats, [&] { Check(world.AllReduceSum(data)); });
    Check(world.Barrier());
    const Times plain = Measure(repeats, [&] {
      MPI_Allreduce(MPI_IN_PLACE, data.data(), static_cast<int>(data.size()), MPI_FLOAT, MPI_SUM,
                    MPI_COMM_WORLD);
    });
    if (prints) {
      std::printf("%9zu %10.1f (%9.1f) %10.1f (%9.1f)\n", bytes, ours.median, ours.p99,
                  plain.median, plain.p99);
    }
  }
  if (world.size() < 2) return;
  if (prints)
    std::printf("%9s %22s %22s %22s\n", "bytes", "there and back", "after 9 ms of waiting",
                "and the sender away");
  for (const size_t bytes : {8, 4 << 10, 64 << 10, 1 << 20}) {
    std::vector<std::byte> data(bytes);
    const auto round_trip = [&] {
      if (world.rank() == 0) {
        Check(world.Send(data, 1, 0));
        Check(world.Receive(data, 1, 0));
      } else if (world.rank() == 1) {
        Check(world.Receive(data, 0, 0));
        Check(world.Send(data, 0, 0));
      }
    };
    Check(world.Barrier());
    const Times busy = Measure(500, round_trip);
    // Rank 1 has been waiting when the message comes: what its dozing costs.
    const Times idle = Measure(100, round_trip, [&] {
      if (world.rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(9));
    });
    // And rank 0 makes no MPI call after sending: one way.
    Check(world.Barrier());
    std::byte stamp[sizeof(int64_t)];
    std::vector<double> away;
    for (int i = 0; i < 100; ++i) {
      if (world.rank() == 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(9));
        const int64_t now = NowNs();
        std::memcpy(stamp, &now, sizeof(now));
        Check(world.Send(stamp, 1, 1));
        Check(world.Send(data, 1, 0));
        std::this_thread::sleep_for(std::chrono::milliseconds(15));
      } else if (world.rank() == 1) {
        Check(world.Receive(stamp, 0, 1));
        Check(world.Receive(data, 0, 0));
        int64_t sent = 0;
        std::memcpy(&sent, stamp, sizeof(sent));
        away.push_back(static_cast<double>(NowNs() - sent) / 1000);
      }
    }
    double one_way[2] = {};
    if (world.rank() == 1) {
      std::sort(away.begin(), away.end());
      one_way[0] = away[50];
      one_way[1] = away[98];
    }
    Check(world.Broadcast(std::as_writable_bytes(std::span(one_way)), 1));
    if (prints) {
      std::printf("%9zu %10.1f (%9.1f) %10.1f (%9.1f) %10.1f (%9.1f)\n", bytes, busy.median,
                  busy.p99, idle.median, idle.p99, one_way[0], one_way[1]);
    }
  }
}

}  // namespace
}  // namespace shardline::parallel

int main(int argc, char** argv) {
  auto session = shardline::parallel::MpiSession::Start(&argc, &argv);
  if (!session.ok()) return 1;
  auto world = (*session)->World();
  if (!world.ok()) return 1;
  shardline::parallel::Bench(**world);
}

// Latency of the communicator's calls beside plain MPI's, of rank 0:
//   mpirun -n 2 collectives_bench

#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <thread>
#include <vector>

#include "parallel/mpi_communicator.h"

namespace shardline::parallel {
namespace {

struct Times {
  double median = 0;  // µs
  double p99 = 0;
};

Times Measure(int repeats, const std::function<void()>& call) {
  for (int i = 0; i < repeats / 10; ++i) call();
  std::vector<double> times(repeats);
  for (double& time : times) {
    const auto start = std::chrono::steady_clock::now();
    call();
    time =
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
  }
  std::sort(times.begin(), times.end());
  return {.median = times[repeats / 2], .p99 = times[repeats * 99 / 100]};
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
  if (prints) std::printf("%9s %22s %22s\n", "bytes", "there and back", "after 5 ms of waiting");
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
    // Rank 1 has been waiting when the message comes: what its sleeping costs.
    Check(world.Barrier());
    std::vector<double> idle;
    for (int i = 0; i < 100; ++i) {
      if (world.rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      const auto start = std::chrono::steady_clock::now();
      round_trip();
      idle.push_back(
          std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
              .count());
    }
    std::sort(idle.begin(), idle.end());
    if (prints) {
      std::printf("%9zu %10.1f (%9.1f) %10.1f (%9.1f)\n", bytes, busy.median, busy.p99, idle[50],
                  idle[98]);
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

#pragma once

#include <span>

#include "parallel/communicator.h"

namespace shardline::parallel {

/// One thing that every communicator must do. Every rank of the group calls `run` with its own
/// communicator; failures are GoogleTest failures.
struct CommunicatorCase {
  const char* name;
  void (*run)(Communicator& group);
};

/// All of them: one body for threads, MPI and whatever comes next.
std::span<const CommunicatorCase> CommunicatorCases();

}  // namespace shardline::parallel

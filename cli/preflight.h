#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shardline::cli {

/// What `up` needs to start, each a path.
struct Programs {
  std::string coordinator;
  std::string worker;
  std::string mpirun;
};

/// Our programs next to this one, else in PATH; mpirun in PATH. kUnavailable says what to install.
absl::StatusOr<Programs> FindPrograms();

/// kInvalidArgument unless `model` is a file or directory that can be read.
absl::Status CheckModelPath(const std::string& model);

/// kInvalidArgument unless `listen` is HOST:PORT with an address of this host; kUnavailable, with
/// what to do, when the port is taken.
absl::Status CheckListenAddress(const std::string& listen);

}  // namespace shardline::cli

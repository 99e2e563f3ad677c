#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace shardline::security {

/// A small file's bytes. kNotFound or kInvalidArgument naming the file and what is wrong.
absl::StatusOr<std::string> ReadSecretFile(const std::string& path);

}  // namespace shardline::security

#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace shardline::security {

/// The secrets that a service accepts. Immutable and thread-safe.
class BearerTokens {
 public:
  /// Accepts nothing, and asks for nothing.
  BearerTokens() = default;
  /// One token a line, of at least 16 visible ASCII characters each; several, so that they can be
  /// changed one after the other. kInvalidArgument or kNotFound naming the file.
  static absl::StatusOr<BearerTokens> Read(const std::string& path);

  bool empty() const { return digests_.empty(); }
  /// Takes the same time for every wrong token, however much of it is right.
  bool Accept(std::string_view token) const;

 private:
  using Digest = std::array<unsigned char, 32>;
  std::vector<Digest> digests_;  // SHA-256
};

/// The first token of such a file, to be sent by a client. Errors as Read.
absl::StatusOr<std::string> ReadToken(const std::string& path);

}  // namespace shardline::security

#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace shardline::model {

/// Parses text from a file that is not trusted: nesting is bounded, nothing is thrown.
/// kInvalidArgument names `origin` (the file) and the byte.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text, const std::string& origin);

/// Typed reads from one JSON object. Errors are kInvalidArgument naming file, key, what was
/// expected and what was found. A key that is absent or null counts as absent.
class JsonAccess {
 public:
  /// Both must outlive it.
  JsonAccess(const nlohmann::json& object, std::string origin)
      : object_(object), origin_(std::move(origin)) {}

  bool Has(std::string_view key) const;
  /// True for a null, too.
  bool Holds(std::string_view key) const;
  /// Null when absent.
  const nlohmann::json* Find(std::string_view key) const;

  absl::StatusOr<int64_t> Int(std::string_view key, int64_t low, int64_t high) const;
  absl::StatusOr<int64_t> IntOr(std::string_view key, int64_t low, int64_t high,
                                int64_t otherwise) const;
  absl::StatusOr<double> Number(std::string_view key, double low, double high) const;
  absl::StatusOr<double> NumberOr(std::string_view key, double low, double high,
                                  double otherwise) const;
  absl::StatusOr<bool> BoolOr(std::string_view key, bool otherwise) const;
  absl::StatusOr<std::string> String(std::string_view key) const;
  absl::StatusOr<std::string> StringOr(std::string_view key, std::string otherwise) const;

  absl::Status Error(std::string_view key, std::string_view what) const;
  const std::string& origin() const { return origin_; }

 private:
  const nlohmann::json& object_;
  const std::string origin_;
};

}  // namespace shardline::model

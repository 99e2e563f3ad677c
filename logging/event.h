#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace shardline::logging {

/// A log line with fields: «WHAT key=value key=value» as text, keys of the object as JSON. Values
/// may come from anywhere: control characters, quotes and what is not ASCII are escaped in both
/// formats, so that no value begins a line or looks like another field. For one thread.
///   Event("request ended").With("request_id", id).With("seconds", 0.5).Info();
class Event {
 public:
  /// `what` is ours, not a client's.
  explicit Event(std::string_view what) : what_(what) {}

  /// `key` is a name of ours: letters and underscores. A text of more than 256 bytes is cut.
  Event& With(std::string_view key, std::string_view value);
  Event& With(std::string_view key, const char* value) {
    return With(key, std::string_view(value));
  }
  Event& With(std::string_view key, int64_t value);
  Event& With(std::string_view key, double value);

  void Info() const;
  void Warn() const;

 private:
  friend class EventFields;

  const std::string what_;
  std::vector<std::pair<std::string, std::string>> fields_;  // values as JSON
};

}  // namespace shardline::logging

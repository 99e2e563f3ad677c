#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/jinja/value.h"

namespace shardline::jinja {

/// What a filter, test, method or function is given.
struct Arguments {
  std::vector<Value> positional;
  std::map<std::string, Value> named;

  /// Argument `index`, or the named one; null when neither is there.
  const Value* Get(size_t index, const char* name) const;
  /// The same as a string or an integer; the default when absent or of another type.
  std::string Text(size_t index, const char* name, std::string_view otherwise) const;
  int64_t Integer(size_t index, const char* name, int64_t otherwise) const;
};

/// Filters, tests and methods of strings and dicts, as Jinja and Python define them. Errors are
/// kInvalidArgument without a line; `max_bytes` bounds what one call may make.
absl::StatusOr<Value> CallFilter(std::string_view name, const Value& input, const Arguments& args,
                                 int64_t max_bytes);
/// How many bytes CallFilter reads or copies, about.
int64_t FilterWork(std::string_view name, const Value& input);
absl::StatusOr<bool> CallTest(std::string_view name, const Value& input, const Arguments& args);
absl::StatusOr<Value> CallMethod(const Value& receiver, const std::string& name,
                                 const Arguments& args, int64_t max_bytes);
/// Whether data of this type has the method.
bool HasMethod(const Value& receiver, std::string_view name);

/// Python's ==, < on numbers and strings, and `in`.
bool Equal(const Value& a, const Value& b);
absl::StatusOr<bool> Less(const Value& a, const Value& b);
absl::StatusOr<bool> Contains(const Value& container, const Value& item);
/// obj.name for data: a key of an object, else undefined.
Value Member(const Value& object, const std::string& name);
/// Elements of an array, keys of an object, characters of a string.
absl::StatusOr<std::vector<Value>> Iterate(const Value& value);

}  // namespace shardline::jinja

#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace shardline::jinja {

using Json = nlohmann::json;
struct Node;

/// A template's value with Python's meaning: JSON data (shared, never changed), or what JSON lacks.
struct Value {
  enum class Kind { kUndefined, kData, kNamespace, kMacro, kFunction, kMethod };

  Kind kind = Kind::kUndefined;
  std::shared_ptr<const Json> data;                       // kData; the receiver of kMethod
  std::shared_ptr<std::map<std::string, Value>> members;  // kNamespace, the one thing that changes
  const Node* macro = nullptr;                            // kMacro
  std::string name;                                       // kFunction, kMethod; kUndefined: of what

  static Value Of(Json json) { return Share(std::make_shared<const Json>(std::move(json))); }
  static Value Share(std::shared_ptr<const Json> json) {
    Value value;
    value.kind = Kind::kData;
    value.data = std::move(json);
    return value;
  }
  static Value Undefined(std::string name) {
    Value value;
    value.name = std::move(name);
    return value;
  }

  bool IsData() const { return kind == Kind::kData; }
  bool IsUndefined() const { return kind == Kind::kUndefined; }
  const Json& json() const { return *data; }
  bool IsString() const { return IsData() && data->is_string(); }
  bool IsInteger() const { return IsData() && data->is_number_integer(); }
  bool IsArray() const { return IsData() && data->is_array(); }
  bool IsObject() const { return IsData() && data->is_object(); }
  const std::string& string() const { return data->get_ref<const std::string&>(); }
  /// A part of this value's data, sharing it.
  Value Part(const Json& part) const { return Share(std::shared_ptr<const Json>(data, &part)); }
};

/// Python's bool(), str() and the dump that transformers' tojson makes. Recursion is bounded by the
/// nesting of the data.
bool Truth(const Value& value);
std::string ToText(const Value& value);
std::string ToJsonText(const Json& json, int indent);
/// How deep arrays and objects nest.
int Nesting(const Json& json);
/// Bytes that a copy takes, about.
constexpr int64_t kElementBytes = 32;
int64_t Weight(const Json& json);

}  // namespace shardline::jinja

#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "model/checkpoint.h"
#include "model/json_access.h"
#include "model/rotary.h"
#include "model/spec.h"

namespace shardline::model {

/// Reads many keys of a configuration and keeps the first error, so that a family reads like a list
/// of its keys. A read that failed yields a harmless value.
class ConfigReader {
 public:
  explicit ConfigReader(const JsonAccess& access) : access_(access) {}

  /// A size in [1, most], which must be there, and one that need not be.
  int64_t Size(const std::string& key, int64_t most) {
    return Take(access_.Int(key, 1, most), int64_t{1});
  }
  int64_t SizeOr(const std::string& key, int64_t most, int64_t otherwise) {
    return Take(access_.IntOr(key, 1, most, otherwise), int64_t{1});
  }
  /// Likewise for those that fit an int.
  int Count(const std::string& key, int most) { return static_cast<int>(Size(key, most)); }
  int CountOr(const std::string& key, int most, int otherwise) {
    return static_cast<int>(SizeOr(key, most, otherwise));
  }
  /// In [0, most].
  int64_t IntOr(const std::string& key, int64_t most, int64_t otherwise) {
    return Take(access_.IntOr(key, 0, most, otherwise), int64_t{1});
  }
  float Number(const std::string& key, double low, double high, double otherwise) {
    return static_cast<float>(Take(access_.NumberOr(key, low, high, otherwise), otherwise));
  }
  /// Likewise, where null means "off", which is 0: `absent` is for a key that is not there at all.
  int64_t IntOrOff(const std::string& key, int64_t most, int64_t absent) {
    return access_.Holds(key) ? IntOr(key, most, 0) : absent;
  }
  float NumberOrOff(const std::string& key, double low, double high, double absent) {
    return access_.Holds(key) ? Number(key, low, high, 0) : static_cast<float>(absent);
  }
  bool Bool(const std::string& key, bool otherwise) {
    return Take(access_.BoolOr(key, otherwise), otherwise);
  }
  std::string Text(const std::string& key, const std::string& otherwise) {
    return Take(access_.StringOr(key, otherwise), otherwise);
  }
  /// A list of exactly `size` strings or booleans, or, when absent, an empty one.
  std::vector<std::string> TextList(const std::string& key, size_t size);
  std::vector<int64_t> IntList(const std::string& key);

  /// The number of layers, at most kMaxLayers: it sizes memory.
  size_t Layers(const std::string& key) { return static_cast<size_t>(Size(key, kMaxLayers)); }
  kernels::Activation Activation(const std::string& key, const std::string& otherwise);
  /// One id or a list of ids, each in the vocabulary.
  std::vector<int32_t> Tokens(const std::string& key, int64_t vocabulary);
  /// `value` when it is ok.
  template <typename T>
  T Take(absl::StatusOr<T> value, T on_error) {
    if (value.ok()) return *std::move(value);
    Fail(value.status());
    return on_error;
  }
  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

  const JsonAccess& access() const { return access_; }
  const absl::Status& status() const { return status_; }

 private:
  const JsonAccess& access_;
  absl::Status status_;
};

/// What nearly all decoders since Llama state alike in config.json: sizes, norm, activation, rotary
/// positions (one table), embeddings, end-of-sequence tokens.
ModelSpec SpecFromConfig(ConfigReader& read, const RotaryDefaults& rotary = {});

/// The same from GGUF metadata, whose keys begin with the architecture's name; biases and tied
/// embeddings by the tensors that are there, mixtures by "expert_count".
ModelSpec SpecFromGguf(ConfigReader& read, const Checkpoint& checkpoint,
                       const std::string& architecture);

/// Where a checkpoint's configuration lies, for messages.
std::string ConfigOrigin(const Checkpoint& checkpoint);

}  // namespace shardline::model

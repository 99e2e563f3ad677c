#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace shardline::worker {

/// A Llama of a few kilobytes with weights from a fixed pattern, for what needs a model but not a
/// meaningful one. Change what you like before Write(): a test of bad checkpoints removes or
/// reshapes tensors here.
struct TinyLlama {
  struct Tensor {
    std::vector<int64_t> shape;
    std::vector<float> values;
  };

  /// 3 layers, hidden 32, 4 heads of 8, 2 KV heads, feed-forward 48, vocabulary 101, tied.
  TinyLlama();

  nlohmann::json config;
  std::map<std::string, Tensor> tensors;

  /// A Hugging Face directory, float32, in the test's temporary directory; `name` tells models of
  /// one test apart. Returns its path.
  std::string Write(const std::string& name = "model") const;
};

}  // namespace shardline::worker

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

  /// Makes a Mixtral of it: the feed-forward of every layer becomes a mixture of experts.
  void MakeMixtral(int experts, int experts_per_token);

  nlohmann::json config;
  std::map<std::string, Tensor> tensors;

  /// A Hugging Face directory, float32, in the test's temporary directory; `name` tells models of
  /// one test apart. Returns its path.
  std::string Write(const std::string& name = "model") const;

 private:
  void Add(const std::string& tensor, std::vector<int64_t> shape);
  uint32_t seed_ = 0;  // of the next tensor
};

}  // namespace shardline::worker

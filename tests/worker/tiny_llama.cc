#include "tests/worker/tiny_llama.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "kernels/philox.h"

namespace shardline::worker {
namespace {

/// Removes at exit what tests wrote.
class Written {
 public:
  ~Written() {
    for (const std::filesystem::path& path : paths_) {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  }
  void Add(std::filesystem::path path) { paths_.push_back(std::move(path)); }

 private:
  std::vector<std::filesystem::path> paths_;
};

}  // namespace

TinyLlama::TinyLlama() {
  const int layers = 3, hidden = 32, heads = 4, kv_heads = 2, feed_forward = 48, vocabulary = 101;
  config = {{"model_type", "llama"},
            {"vocab_size", vocabulary},
            {"hidden_size", hidden},
            {"num_hidden_layers", layers},
            {"num_attention_heads", heads},
            {"num_key_value_heads", kv_heads},
            {"intermediate_size", feed_forward},
            {"max_position_embeddings", 256},
            {"rms_norm_eps", 1e-5},
            {"rope_theta", 10000.0},
            {"tie_word_embeddings", true}};
  const int kv = kv_heads * hidden / heads;
  Add("model.embed_tokens", {vocabulary, hidden});
  for (int layer = 0; layer < layers; ++layer) {
    const std::string base = "model.layers." + std::to_string(layer) + ".";
    Add(base + "input_layernorm", {hidden});
    Add(base + "self_attn.q_proj", {hidden, hidden});
    Add(base + "self_attn.k_proj", {kv, hidden});
    Add(base + "self_attn.v_proj", {kv, hidden});
    Add(base + "self_attn.o_proj", {hidden, hidden});
    Add(base + "post_attention_layernorm", {hidden});
    Add(base + "mlp.gate_proj", {feed_forward, hidden});
    Add(base + "mlp.up_proj", {feed_forward, hidden});
    Add(base + "mlp.down_proj", {hidden, feed_forward});
  }
  Add("model.norm", {hidden});
}

void TinyLlama::Add(const std::string& tensor, std::vector<int64_t> shape) {
  Tensor& made = tensors[tensor + ".weight"];
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  // Norm weights around 1, matrices such that their products stay of order 1.
  const bool norm = shape.size() == 1;
  for (int64_t i = 0; i < count; ++i) {
    const double u = kernels::Philox(seed_, {static_cast<uint32_t>(i), 0, 0, 0})[0] * 0x1p-32 - 0.5;
    made.values.push_back(static_cast<float>(norm ? 1 + 0.2 * u : 0.8 * u));
  }
  made.shape = std::move(shape);
  ++seed_;
}

void TinyLlama::MakeMixtral(int experts, int experts_per_token) {
  config["model_type"] = "mixtral";
  config["num_local_experts"] = experts;
  config["num_experts_per_tok"] = experts_per_token;
  const auto hidden = config["hidden_size"].get<int64_t>();
  const auto feed_forward = config["intermediate_size"].get<int64_t>();
  for (int layer = 0; layer < config["num_hidden_layers"].get<int>(); ++layer) {
    const std::string base = "model.layers." + std::to_string(layer) + ".";
    for (const char* dense : {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      tensors.erase(base + dense + ".weight");
    }
    const std::string mixture = base + "block_sparse_moe.";
    Add(mixture + "gate", {experts, hidden});
    for (int expert = 0; expert < experts; ++expert) {
      const std::string one = mixture + "experts." + std::to_string(expert) + ".";
      Add(one + "w1", {feed_forward, hidden});
      Add(one + "w2", {hidden, feed_forward});
      Add(one + "w3", {feed_forward, hidden});
    }
  }
}

std::string TinyLlama::Write(const std::string& name) const {
  const auto* test = testing::UnitTest::GetInstance()->current_test_info();
  std::string unique = std::string(test->test_suite_name()) + "." + test->name() + "." + name;
  for (char& c : unique) {
    if (c == '/') c = '_';
  }
  const std::filesystem::path directory =
      std::filesystem::path(testing::TempDir()) / (unique + "." + std::to_string(getpid()));
  std::filesystem::create_directories(directory);
  static Written written;
  written.Add(directory);
  std::ofstream(directory / "config.json") << config;

  nlohmann::json header;
  uint64_t offset = 0;
  for (const auto& [tensor, content] : tensors) {
    const uint64_t end = offset + content.values.size() * sizeof(float);
    header[tensor] = {{"dtype", "F32"}, {"shape", content.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  const std::string text = header.dump();
  const uint64_t size = text.size();
  std::ofstream file(directory / "model.safetensors", std::ios::binary);
  file.write(reinterpret_cast<const char*>(&size), sizeof(size));
  file << text;
  for (const auto& [tensor, content] : tensors) {
    file.write(reinterpret_cast<const char*>(content.values.data()),
               static_cast<std::streamsize>(content.values.size() * sizeof(float)));
  }
  return directory;
}

}  // namespace shardline::worker

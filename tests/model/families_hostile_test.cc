// config.json is not trusted: bad values in place of every key of every family's configuration give
// an error that names the key, or change nothing where the key is not read; nothing crashes.

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "model/checkpoint.h"
#include "model/family.h"
#include "model/weights.h"

namespace shardline::model {
namespace {

namespace fs = std::filesystem;

/// What sizes memory or an index: a bad value of these must not pass.
const std::set<std::string> kMustBeRefused = {"model_type",
                                              "vocab_size",
                                              "hidden_size",
                                              "num_hidden_layers",
                                              "num_attention_heads",
                                              "num_key_value_heads",
                                              "intermediate_size",
                                              "head_dim",
                                              "max_position_embeddings",
                                              "n_embd",
                                              "n_layer",
                                              "n_head",
                                              "n_positions",
                                              "n_inner",
                                              "num_local_experts",
                                              "num_experts",
                                              "num_experts_per_tok",
                                              "moe_intermediate_size",
                                              "eos_token_id",
                                              "rope_theta",
                                              "shared_expert_intermediate_size"};

/// A checkpoint directory of the test's own, with a golden's weights.
class Scratch {
 public:
  explicit Scratch(const fs::path& golden)
      : path_(fs::path(testing::TempDir()) /
              ("families_hostile." + std::to_string(getpid()) + "." + golden.filename().string())) {
    fs::create_directories(path_);
    fs::create_symlink(golden / "model.safetensors", path_ / "model.safetensors");
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

  absl::Status Describe(const std::string& config) const {
    std::ofstream(path_ / "config.json") << config;
    const auto checkpoint = Checkpoint::Open(path_);
    if (!checkpoint.ok()) return checkpoint.status();
    const auto family = model::Describe(**checkpoint);
    if (!family.ok()) return family.status();
    return Bind(family->table, family->ignored, **checkpoint).status();
  }

 private:
  const fs::path path_;
};

std::vector<fs::path> Goldens() {
  std::vector<fs::path> goldens;
  for (const auto& entry : fs::directory_iterator(std::string(SHARDLINE_GOLDEN) + "/families")) {
    goldens.push_back(entry.path());
  }
  EXPECT_FALSE(goldens.empty());
  return goldens;
}

/// `visit(key, value)` for every member of `object`, whose value it may change, and of the objects
/// in it.
void VisitMembers(nlohmann::json& object,
                  const std::function<void(const std::string&, nlohmann::json&)>& visit) {
  for (const auto& item : object.items()) {
    visit(item.key(), item.value());
    if (item.value().is_object()) VisitMembers(item.value(), visit);
  }
}

/// Of the value's own kind but out of all bounds, and of other kinds; never one that could be
/// meant.
std::vector<nlohmann::json> BadValues(const std::string& key, const nlohmann::json& value) {
  std::vector<nlohmann::json> bad = {-7, 1e300, int64_t{1} << 62, UINT64_MAX, "no such thing"};
  if (!value.is_object()) bad.push_back(nlohmann::json::object());
  // An empty list of end-of-sequence tokens says that there are none.
  if (!value.is_array() && key != "eos_token_id") bad.push_back(nlohmann::json::array());
  return bad;
}

TEST(HostileConfig, ABadValueIsRefusedByName) {
  for (const fs::path& golden : Goldens()) {
    const Scratch scratch(golden);
    std::ifstream file(golden / "config.json");
    nlohmann::json config = nlohmann::json::parse(file);
    ASSERT_TRUE(scratch.Describe(config.dump()).ok()) << golden;
    VisitMembers(config, [&](const std::string& key, nlohmann::json& value) {
      const nlohmann::json good = value;
      if (good.is_null()) return;
      for (const nlohmann::json& bad : BadValues(key, good)) {
        value = bad;
        const absl::Status status = scratch.Describe(config.dump());
        SCOPED_TRACE(golden.filename().string() + ": " + key + " = " + bad.dump());
        if (status.ok()) {
          // "multi_query" says how many KV heads a BigCode has.
          EXPECT_TRUE(!kMustBeRefused.contains(key) ||
                      (key == "num_key_value_heads" && config["model_type"] == "gpt_bigcode"));
        } else {
          EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
          EXPECT_NE(status.message().find(absl::StrCat("\"", key, "\"")), std::string::npos)
              << status;
        }
      }
      value = good;
    });
  }
}

TEST(HostileConfig, NumbersThatJsonCannotHoldAreRefused) {
  for (const fs::path& golden : Goldens()) {
    const Scratch scratch(golden);
    std::ifstream file(golden / "config.json");
    nlohmann::json config = nlohmann::json::parse(file);
    config["vocab_size"] = "@";
    const std::string text = config.dump();
    for (const char* number : {"NaN", "Infinity", "1e999", "-"}) {
      std::string bad = text;
      bad.replace(bad.find("\"@\""), 3, number);
      const absl::Status status = scratch.Describe(bad);
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << number << ": " << status;
      EXPECT_NE(status.message().find("config.json"), std::string::npos) << status;
    }
  }
}

TEST(HostileConfig, AnUnknownArchitectureIsRefusedWithWhatIsSupported) {
  const Scratch scratch(Goldens().front());
  const absl::Status status = scratch.Describe(R"({"model_type": "no_such_model"})");
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_NE(status.message().find("\"model_type\""), std::string::npos) << status;
  EXPECT_NE(status.message().find("no_such_model"), std::string::npos) << status;
  for (const Family* family : Families()) {
    for (const std::string_view type : family->model_types) {
      EXPECT_NE(status.message().find(std::string(type)), std::string::npos) << type;
    }
  }
}

TEST(HostileConfig, ReadmeListsEveryArchitecture) {
  std::ifstream file(std::string(SHARDLINE_GOLDEN) + "/../../README.md");
  const std::string readme((std::istreambuf_iterator<char>(file)), {});
  for (const Family* family : Families()) {
    for (const std::string_view type : family->model_types) {
      EXPECT_NE(readme.find(absl::StrCat("`", std::string(type), "`")), std::string::npos) << type;
    }
    for (const std::string_view name : family->gguf_architectures) {
      EXPECT_NE(readme.find(absl::StrCat("`", std::string(name), "`")), std::string::npos) << name;
    }
  }
}

}  // namespace
}  // namespace shardline::model

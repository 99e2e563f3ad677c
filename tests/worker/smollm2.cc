#include "tests/worker/smollm2.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace shardline::worker {

std::string SmolLm2Path() {
  if (const char* path = std::getenv("SHARDLINE_SMOLLM2_GGUF")) return path;
  const char* home = std::getenv("HOME");
  const std::string cached = std::string(home == nullptr ? "" : home) +
                             "/.cache/shardline/SmolLM2-135M-Instruct.Q4_1.gguf";
  return std::filesystem::exists(cached) ? cached : "";
}

nlohmann::json SmolLm2Golden(const std::string& name) {
  std::ifstream file(std::string(SHARDLINE_GOLDEN) + "/smollm2/" + name);
  return nlohmann::json::parse(file);
}

std::vector<int32_t> SmolLm2Prompt(const std::string& name) {
  const nlohmann::json greedy = SmolLm2Golden("greedy.json");
  for (const nlohmann::json& prompt : greedy.at("prompts")) {
    if (prompt.at("name") == name) return prompt.at("prompt_tokens").get<std::vector<int32_t>>();
  }
  return {};
}

}  // namespace shardline::worker

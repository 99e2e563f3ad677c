#pragma once

#include <algorithm>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "coordinator/scheduler.h"
#include "tests/coordinator/model_worker.h"

namespace shardline::coordinator {

constexpr int32_t kVocabulary = 1000;

inline SequenceRequest MakeRequest(uint64_t id, std::vector<int32_t> prompt, int max_tokens,
                                   std::vector<int32_t> stop = {}) {
  SequenceRequest request;
  request.id = id;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.stop_tokens = std::move(stop);
  return request;
}

/// The answer that an undisturbed run gives.
inline std::vector<int32_t> SoloAnswer(const SequenceRequest& request) {
  TextHash text;
  for (const int32_t token : request.prompt) text.Push(token);
  std::vector<int32_t> answer;
  while (static_cast<int>(answer.size()) < request.max_tokens) {
    const int32_t token = text.NextToken();
    text.Push(token);
    answer.push_back(token);
    if (std::find(request.stop_tokens.begin(), request.stop_tokens.end(), token) !=
        request.stop_tokens.end()) {
      break;
    }
  }
  return answer;
}

/// With one replica: its next plan.
inline std::optional<v1::StepPlan> OnlyPlan(Scheduler& scheduler) {
  std::vector<v1::StepPlan> plans = scheduler.Schedule();
  if (plans.empty()) return std::nullopt;
  return std::move(plans.front());
}

}  // namespace shardline::coordinator

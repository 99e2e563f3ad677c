#pragma once

#include "absl/status/status.h"
#include "coordinator/served_model.h"
#include "shardline/v1/generation.pb.h"

namespace shardline::coordinator {

/// Checks a request's sampling fields and translates them, with the checkpoint's defaults and then
/// ours for absent ones. All but max_tokens, which depends on the prompt. kInvalidArgument naming
/// the field and its value, kFailedPrecondition when a field needs a tokenizer that the model
/// lacks.
absl::Status FillSampling(const ServedModel& served, const v1::SamplingParams& params,
                          PreparedRequest& prepared);

/// The seed of a request's answer number `index`: its own for the first, derived for the others.
uint64_t SeedOfAnswer(uint64_t seed, int index);

}  // namespace shardline::coordinator

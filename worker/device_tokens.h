#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/device.h"
#include "kernels/step_ops.h"
#include "kernels/tensor.h"
#include "parallel/communicator.h"

namespace shardline::worker {

/// Sampling that the host does not wait for: tokens are drawn on the device, where the next step
/// finds them, and are brought to the host meanwhile. For rows without cut-offs and changes, whose
/// token is one draw a shard; what is drawn is what Sampler would draw.
class DeviceTokens {
 public:
  /// Draws whose tokens may wait to be read.
  static constexpr int kSteps = 4;

  /// For `slots` slots and steps of at most `max_tokens`. What is passed by reference must outlive
  /// it. `vocabulary_begin`: the first token of this rank's shard.
  static absl::StatusOr<std::unique_ptr<DeviceTokens>> Create(kernels::Device& device,
                                                              parallel::Communicator& tensor_group,
                                                              int32_t vocabulary_begin, int slots,
                                                              int64_t max_tokens);

  /// A step's tokens, with those taken from the device that are negative (kernels::FeedTokens).
  /// Valid for what is enqueued until the next call.
  kernels::Indices Feed(kernels::Indices tokens);
  /// Draws a token for each row of logits [rows, vocabulary shard]. `draws` and `slots`, one a row,
  /// lie in device memory. Returns what Tokens wants. Collective.
  absl::StatusOr<int> Draw(kernels::Tensor logits, const kernels::DrawRow* draws,
                           kernels::Indices slots);
  /// Whether the tokens have come to the host.
  bool Arrived(int draw) { return steps_[draw].copied->Done(); }
  /// Waits for them; valid for kSteps - 1 further draws.
  absl::StatusOr<std::span<const int32_t>> Tokens(int draw);

 private:
  DeviceTokens(kernels::Device& device, parallel::Communicator& group, int32_t vocabulary_begin)
      : device_(device), group_(group), vocabulary_begin_(vocabulary_begin) {}

  struct Step {
    kernels::Buffer tokens, staging;
    size_t count = 0;
    std::unique_ptr<kernels::Event> copied;
  };

  kernels::Device& device_;
  parallel::Communicator& group_;
  const int32_t vocabulary_begin_;
  kernels::Buffer sampled_;     // [slots]
  kernels::Buffer fed_;         // [max_tokens]
  kernels::Buffer candidates_;  // [rows], this shard's
  kernels::Buffer gathered_;    // [ranks, rows]
  std::array<Step, kSteps> steps_;
  int next_ = 0;
};

}  // namespace shardline::worker

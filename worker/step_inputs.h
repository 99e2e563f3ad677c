#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/device.h"

namespace shardline::worker {

/// The index arrays of one step; lengths and meaning as in kernels/ops.h.
struct StepArrays {
  /// [T]; negative: -1 less the slot whose last token it is (kernels::FeedTokens).
  std::span<const int32_t> tokens;
  std::span<const int32_t> positions;       // [T]
  std::span<const int32_t> query_start;     // [S + 1]
  std::span<const int32_t> context_length;  // [S]
  std::span<const int32_t> block_table;     // [S, max_blocks]
  std::span<const int32_t> rows;            // [R] that want logits
  std::span<const int32_t> slots;           // of rows that are drawn on the device
  std::span<const int32_t> draws;           // how these are drawn: kernels::DrawRow each
};

/// Brings a step's index arrays to the device in one copy, without waiting for the device but when
/// it is kSteps steps behind. Arrays of the same lengths get the same places step after step.
class StepInputs {
 public:
  static constexpr int kSteps = 4;

  /// `capacity`: most numbers of one step, all arrays together. `device` must outlive it.
  static absl::StatusOr<std::unique_ptr<StepInputs>> Create(kernels::Device& device,
                                                            int64_t capacity);

  /// The arrays in device memory, valid for the ops enqueued until the next call.
  absl::StatusOr<StepArrays> Upload(const StepArrays& host);

 private:
  explicit StepInputs(kernels::Device& device) : device_(device) {}

  struct Staging {
    kernels::Buffer memory;
    std::unique_ptr<kernels::Event> copied;
  };

  kernels::Device& device_;
  int64_t capacity_ = 0;
  kernels::Buffer memory_;
  std::array<Staging, kSteps> staging_;
  int next_ = 0;
};

}  // namespace shardline::worker

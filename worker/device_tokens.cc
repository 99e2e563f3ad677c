#include "worker/device_tokens.h"

#include <utility>

namespace shardline::worker {

using kernels::Candidate;

absl::StatusOr<std::unique_ptr<DeviceTokens>> DeviceTokens::Create(
    kernels::Device& device, parallel::Communicator& tensor_group, int32_t vocabulary_begin,
    int slots, int64_t max_tokens) {
  std::unique_ptr<DeviceTokens> tokens(new DeviceTokens(device, tensor_group, vocabulary_begin));
  absl::Status status;
  const auto allocate = [&](kernels::Buffer& buffer, size_t bytes, kernels::MemoryKind kind) {
    if (!status.ok()) return;
    absl::StatusOr<kernels::Buffer> memory = device.Allocate(bytes, kind);
    if (memory.ok()) {
      buffer = *std::move(memory);
    } else {
      status = memory.status();
    }
  };
  constexpr auto kDevice = kernels::MemoryKind::kDevice;
  const size_t bytes = static_cast<size_t>(slots) * sizeof(int32_t);
  const size_t candidates = static_cast<size_t>(slots) * sizeof(Candidate);
  allocate(tokens->sampled_, bytes, kDevice);
  allocate(tokens->fed_, static_cast<size_t>(max_tokens) * sizeof(int32_t), kDevice);
  allocate(tokens->candidates_, candidates, kDevice);
  allocate(tokens->gathered_, candidates * tensor_group.size(), kDevice);
  for (Step& step : tokens->steps_) {
    allocate(step.tokens, bytes, kDevice);
    allocate(step.staging, bytes, kernels::MemoryKind::kStaging);
    step.copied = device.CreateEvent();
  }
  if (!status.ok()) return status;
  device.Zero(tokens->sampled_.data(), bytes);  // some token, should a plan ask too early
  return tokens;
}

kernels::Indices DeviceTokens::Feed(kernels::Indices tokens) {
  auto* const fed = static_cast<int32_t*>(fed_.data());
  kernels::FeedTokens(
      device_, tokens,
      {static_cast<const int32_t*>(sampled_.data()), sampled_.bytes() / sizeof(int32_t)}, fed);
  return {fed, tokens.size()};
}

absl::StatusOr<int> DeviceTokens::Draw(kernels::Tensor logits, const kernels::DrawRow* draws,
                                       kernels::Indices slots) {
  auto* const mine = static_cast<Candidate*>(candidates_.data());
  const Candidate* all = mine;
  kernels::EnqueueDraws(device_, logits, vocabulary_begin_, draws, logits.rows, mine);
  if (group_.size() > 1) {
    const size_t bytes = slots.size() * sizeof(Candidate);
    auto* const gathered = static_cast<std::byte*>(gathered_.data());
    const absl::Status exchanged =
        group_.AllGather({reinterpret_cast<const std::byte*>(mine), bytes},
                         {gathered, bytes * static_cast<size_t>(group_.size())});
    if (!exchanged.ok()) return exchanged;
    all = static_cast<const Candidate*>(gathered_.data());
  }
  const int draw = next_;
  next_ = (next_ + 1) % kSteps;
  Step& step = steps_[draw];
  step.count = slots.size();
  auto* const tokens = static_cast<int32_t*>(step.tokens.data());
  kernels::PickTokens(device_, all, group_.size(), slots, tokens,
                      static_cast<int32_t*>(sampled_.data()));
  device_.CopyToHost(step.staging.data(), tokens, step.count * sizeof(int32_t));
  step.copied->Record();
  return draw;
}

absl::StatusOr<std::span<const int32_t>> DeviceTokens::Tokens(int draw) {
  Step& step = steps_[draw];
  const absl::Status arrived = step.copied->Wait();
  if (!arrived.ok()) return arrived;
  return std::span<const int32_t>(static_cast<const int32_t*>(step.staging.data()), step.count);
}

}  // namespace shardline::worker

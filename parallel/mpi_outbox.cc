#include "parallel/mpi_outbox.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <utility>

namespace shardline::parallel {
namespace {

// Short, as a transfer may have begun: nothing tells but its end.
constexpr auto kLongestNap = std::chrono::microseconds(50);
constexpr auto kCloseTimeout = std::chrono::seconds(3);

}  // namespace

MpiOutbox::~MpiOutbox() { Close(); }

absl::Status MpiOutbox::Send(std::span<const std::byte> data, int to, int tag) {
  std::unique_lock lock(mutex_);
  if (under_way_ > 0) CollectSent();
  if (!failure_.ok()) return failure_;
  const uint64_t sends = sends_;
  if (TravelsInPieces(data.size())) {
    const uint64_t size = data.size();
    const std::span<const std::byte> head = std::as_bytes(std::span(&size, 1));
    const size_t first = kPieceBytes - head.size();
    failure_ = SendWhole(head, data.first(first), to, tag);
    for (size_t at = first; at < data.size() && failure_.ok(); at += kPieceBytes) {
      failure_ = SendWhole({}, data.subspan(at, std::min(kPieceBytes, data.size() - at)), to, tag);
    }
  } else {
    failure_ = SendWhole({}, data, to, tag);
  }
  if (!failure_.ok() || sends == sends_) return failure_;
  if (!driver_.joinable()) driver_ = std::thread([this] { Drive(); });
  lock.unlock();
  changed_.notify_one();
  return absl::OkStatus();
}

absl::Status MpiOutbox::SendWhole(std::span<const std::byte> head, std::span<const std::byte> data,
                                  int to, int tag) {
  const size_t size = head.size() + data.size();
  const size_t slot = FreeBuffer(size);
  std::byte* buffer = buffers_[slot].bytes.get();
  std::copy(head.begin(), head.end(), buffer);
  std::copy(data.begin(), data.end(), buffer + head.size());
  const MpiBytes bytes(size);
  MPI_Request* request = &requests_[slot];
  absl::Status sent =
      FromMpi(MPI_Isend(buffer, bytes.count(), bytes.type(), to, tag, comm_, request), "MPI_Isend");
  if (!sent.ok()) return sent;
  // A short message is gone already.
  int done = 0;
  sent = FromMpi(MPI_Test(request, &done, MPI_STATUS_IGNORE), "MPI_Test");
  if (!sent.ok() || done != 0) return sent;
  ++under_way_;
  ++sends_;
  return absl::OkStatus();
}

void MpiOutbox::CollectSent() {
  int count = 0;
  completed_.resize(requests_.size());
  const int code = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count,
                                completed_.data(), MPI_STATUSES_IGNORE);
  if (code != MPI_SUCCESS && failure_.ok()) failure_ = FromMpi(code, "MPI_Testsome");
  under_way_ = static_cast<int>(
      std::count_if(requests_.begin(), requests_.end(),
                    [](const MPI_Request& request) { return request != MPI_REQUEST_NULL; }));
}

size_t MpiOutbox::FreeBuffer(size_t size) {
  size_t best = buffers_.size();
  for (size_t i = 0; i < buffers_.size(); ++i) {
    if (requests_[i] != MPI_REQUEST_NULL) continue;
    if (best == buffers_.size()) best = i;
    // The tightest that is large enough, or else the largest, which grows.
    const size_t a = buffers_[i].capacity;
    const size_t b = buffers_[best].capacity;
    if (a >= size ? b < size || a < b : b < size && a > b) best = i;
  }
  if (best == buffers_.size()) {
    buffers_.emplace_back();
    requests_.push_back(MPI_REQUEST_NULL);
  }
  Buffer& buffer = buffers_[best];
  if (buffer.capacity < size || buffer.bytes == nullptr) {
    buffer.capacity = std::max<size_t>(size, 64);
    buffer.bytes = std::make_unique_for_overwrite<std::byte[]>(buffer.capacity);
  }
  return best;
}

void MpiOutbox::Drive() {
  std::unique_lock lock(mutex_);
  while (!closing_) {
    changed_.wait(lock, [&] { return closing_ || (under_way_ > 0 && failure_.ok()); });
    // Counts from the latest Send, whose receiver is usually waiting.
    const uint64_t sends = sends_;
    Patience patience;
    while (!closing_ && under_way_ > 0 && sends == sends_) {
      CollectSent();
      lock.unlock();
      patience.Doze(kLongestNap);
      lock.lock();
    }
  }
}

bool MpiOutbox::Close() {
  {
    std::lock_guard lock(mutex_);
    if (closing_) return under_way_ == 0;
    closing_ = true;
  }
  changed_.notify_all();
  if (driver_.joinable()) driver_.join();

  std::lock_guard lock(mutex_);
  const auto deadline = std::chrono::steady_clock::now() + kCloseTimeout;
  Patience patience;
  while (under_way_ > 0 && failure_.ok() && std::chrono::steady_clock::now() < deadline) {
    CollectSent();
    patience.Doze(kLongestNap);
  }
  if (under_way_ == 0) return true;
  // OpenMPI cannot cancel a send, so these buffers stay readable until the process ends.
  static auto* const undelivered = new std::vector<Buffer>;
  static std::mutex undelivered_mutex;
  std::lock_guard undelivered_lock(undelivered_mutex);
  for (size_t i = 0; i < buffers_.size(); ++i) {
    if (requests_[i] != MPI_REQUEST_NULL) undelivered->push_back(std::move(buffers_[i]));
  }
  return false;
}

}  // namespace shardline::parallel

#include "parallel/thread_communicator.h"

#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "parallel/partition.h"
#include "parallel/rank_order_sum.h"

namespace shardline::parallel {
namespace {

enum class Operation { kAllReduceSum, kAllGather, kAllToAll, kBroadcast, kBarrier, kSplit };

/// What one rank shows the others during a collective. The spans are valid between the call's two
/// meetings, as every rank stays inside the call until the second one is complete.
struct Offer {
  Operation operation = Operation::kBarrier;
  std::span<float> sum;
  std::span<const std::byte> send;
  std::span<std::byte> data;
  std::span<const size_t> counts;
  int argument = 0;  // root or color
};

/// State shared by the ranks of one group.
class Group {
 public:
  explicit Group(int size) : offers_(size), members_(size), left_(size) {}

  int size() const { return members_; }

  /// Makes every later call and every waiting one fail.
  void Break(absl::Status why) {
    {
      std::lock_guard lock(mutex_);
      if (broken_.ok()) broken_ = std::move(why);
    }
    changed_.notify_all();
  }

  /// Makes every call fail that can only end with `rank`'s help. What it sent still arrives.
  void Leave(int rank) {
    {
      std::lock_guard lock(mutex_);
      left_[rank] = true;
      if (incomplete_.ok()) incomplete_ = HasLeft(rank);
    }
    changed_.notify_all();
  }

  /// Shows `offer` and waits until all ranks have shown theirs.
  absl::Status Meet(int rank, const Offer& offer) {
    std::unique_lock lock(mutex_);
    offers_[rank] = offer;
    return Meet(lock);
  }
  absl::Status Meet() {
    std::unique_lock lock(mutex_);
    return Meet(lock);
  }
  /// Only between two meetings.
  const Offer& offer(int rank) const { return offers_[rank]; }

  absl::Status Post(int from, int to, int tag, std::span<const std::byte> data) {
    {
      std::lock_guard lock(mutex_);
      if (!broken_.ok()) return broken_;
      mail_[{from, to, tag}].emplace_back(data.begin(), data.end());
    }
    changed_.notify_all();
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<std::byte>> Collect(int from, int to, int tag) {
    std::unique_lock lock(mutex_);
    const auto key = std::tuple(from, to, tag);
    auto box = mail_.end();
    changed_.wait(lock, [&] {
      box = mail_.find(key);
      return box != mail_.end() || !broken_.ok() || left_[from];
    });
    if (box == mail_.end()) return broken_.ok() ? HasLeft(from) : broken_;
    std::vector<std::byte> message = std::move(box->second.front());
    box->second.pop_front();
    if (box->second.empty()) mail_.erase(box);
    return message;
  }

  /// The group of the ranks that share `color`, made by the first that asks.
  std::shared_ptr<Group> Child(int color, int size) {
    std::lock_guard lock(mutex_);
    std::shared_ptr<Group>& child = children_[color];
    if (child == nullptr) child = std::make_shared<Group>(size);
    return child;
  }
  void ForgetChildren() {
    std::lock_guard lock(mutex_);
    children_.clear();
  }

 private:
  static absl::Status HasLeft(int rank) {
    return absl::UnavailableError(absl::StrCat("rank ", rank, " has left the group"));
  }

  absl::Status Meet(std::unique_lock<std::mutex>& lock) {
    if (!broken_.ok()) return broken_;
    const uint64_t meeting = meetings_;
    if (++arrived_ == members_) {
      arrived_ = 0;
      ++meetings_;
      lock.unlock();
      changed_.notify_all();
      return absl::OkStatus();
    }
    changed_.wait(lock, [&] { return meetings_ != meeting || !broken_.ok() || !incomplete_.ok(); });
    // A rank may leave as soon as the meeting is complete: that is no failure of this call.
    if (meetings_ != meeting) return absl::OkStatus();
    return broken_.ok() ? incomplete_ : broken_;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  // Written under mutex_, read without it between two meetings.
  std::vector<Offer> offers_;
  const int members_;
  // Guarded by mutex_.
  int arrived_ = 0;
  uint64_t meetings_ = 0;
  absl::Status broken_;      // an error, final for the whole group
  absl::Status incomplete_;  // the first rank that has left: no meeting can be complete any more
  std::vector<bool> left_;
  std::map<std::tuple<int, int, int>, std::deque<std::vector<std::byte>>> mail_;
  std::map<int, std::shared_ptr<Group>> children_;
};

size_t Sum(std::span<const size_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), size_t{0});
}

void Copy(std::span<const std::byte> from, std::byte* to) {
  // A rank's own part may be in place already, and others may be reading it.
  if (!from.empty() && from.data() != to) std::memcpy(to, from.data(), from.size());
}

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<Group> group, int rank)
      : group_(std::move(group)), rank_(rank) {}
  ~ThreadCommunicator() override { group_->Leave(rank_); }

  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }

  absl::Status AllReduceSum(std::span<float> data) override {
    if (size() == 1) return absl::OkStatus();
    return Collective({.operation = Operation::kAllReduceSum, .sum = data}, [&]() -> absl::Status {
      std::vector<const float*> parts(size());
      std::vector<float*> outputs(size());
      // Each rank owns one chunk: it alone reads and writes that chunk in all ranks' buffers.
      const size_t begin = data.size() * rank_ / size();
      const size_t end = data.size() * (rank_ + 1) / size();
      for (int r = 0; r < size(); ++r) {
        const std::span<float> peer = group_->offer(r).sum;
        if (peer.size() != data.size()) return Mismatch(r, peer.size(), data.size(), "floats");
        parts[r] = outputs[r] = peer.data() + begin;
      }
      SumInRankOrder(parts, end - begin, outputs);
      return absl::OkStatus();
    });
  }

  absl::Status AllGather(std::span<const std::byte> send, std::span<std::byte> receive) override {
    const std::vector<size_t> counts(size(), send.size());
    return AllGatherUneven(send, counts, receive);
  }

  absl::Status AllGatherUneven(std::span<const std::byte> send, std::span<const size_t> counts,
                               std::span<std::byte> receive) override {
    if (counts.size() != size() || counts[rank_] != send.size() || Sum(counts) != receive.size()) {
      return Fail("all-gather: the counts do not match the buffers");
    }
    return Collective({.operation = Operation::kAllGather, .send = send}, [&]() -> absl::Status {
      std::byte* to = receive.data();
      for (int r = 0; r < size(); to += counts[r], ++r) {
        const std::span<const std::byte> peer = group_->offer(r).send;
        if (peer.size() != counts[r]) return Mismatch(r, peer.size(), counts[r], "bytes");
        Copy(peer, to);
      }
      return absl::OkStatus();
    });
  }

  absl::Status AllToAllUneven(std::span<const std::byte> send, std::span<const size_t> send_counts,
                              std::span<std::byte> receive,
                              std::span<const size_t> receive_counts) override {
    if (send_counts.size() != size() || receive_counts.size() != size() ||
        Sum(send_counts) != send.size() || Sum(receive_counts) != receive.size()) {
      return Fail("all-to-all: the counts do not match the buffers");
    }
    return Collective({.operation = Operation::kAllToAll, .send = send, .counts = send_counts},
                      [&]() -> absl::Status {
                        std::byte* to = receive.data();
                        for (int r = 0; r < size(); to += receive_counts[r], ++r) {
                          const Offer& peer = group_->offer(r);
                          const size_t count = peer.counts[rank_];
                          if (count != receive_counts[r])
                            return Mismatch(r, count, receive_counts[r], "bytes");
                          Copy(peer.send.subspan(Sum(peer.counts.first(rank_)), count), to);
                        }
                        return absl::OkStatus();
                      });
  }

  absl::Status Broadcast(std::span<std::byte> data, int root) override {
    if (root < 0 || root >= size()) return Fail(absl::StrCat("broadcast: no rank ", root));
    return Collective({.operation = Operation::kBroadcast, .data = data, .argument = root},
                      [&]() -> absl::Status {
                        const Offer& source = group_->offer(root);
                        if (source.argument != root) {
                          return absl::InternalError("broadcast: the ranks name different roots");
                        }
                        if (source.data.size() != data.size()) {
                          return Mismatch(root, source.data.size(), data.size(), "bytes");
                        }
                        if (rank_ != root) Copy(source.data, data.data());
                        return absl::OkStatus();
                      });
  }

  absl::Status Barrier() override {
    return Collective({.operation = Operation::kBarrier}, [] { return absl::OkStatus(); });
  }

  absl::Status Send(std::span<const std::byte> data, int to, int tag) override {
    if (to < 0 || to >= size() || tag < 0) {
      return Fail(absl::StrCat("send: no rank ", to, " or a negative tag ", tag));
    }
    return group_->Post(rank_, to, tag, data);
  }

  absl::Status Receive(std::span<std::byte> data, int from, int tag) override {
    if (from < 0 || from >= size() || tag < 0) {
      return Fail(absl::StrCat("receive: no rank ", from, " or a negative tag ", tag));
    }
    absl::StatusOr<std::vector<std::byte>> message = group_->Collect(from, rank_, tag);
    if (!message.ok()) return message.status();
    if (message->size() != data.size()) {
      return Fail(absl::StrCat("receive from rank ", from, " with tag ", tag, ": ", message->size(),
                               " bytes, expected ", data.size()));
    }
    Copy(*message, data.data());
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color) override {
    if (color < 0) return Fail(absl::StrCat("split: negative color ", color));
    std::unique_ptr<Communicator> child;
    absl::Status status =
        Collective({.operation = Operation::kSplit, .argument = color}, [&]() -> absl::Status {
          int members = 0;
          int place = 0;
          for (int r = 0; r < size(); ++r) {
            if (group_->offer(r).argument != color) continue;
            if (r < rank_) ++place;
            ++members;
          }
          child = std::make_unique<ThreadCommunicator>(group_->Child(color, members), place);
          return absl::OkStatus();
        });
    if (!status.ok()) return status;
    // The next split looks children up only after all ranks, this one too, have met again.
    if (rank_ == 0) group_->ForgetChildren();
    return child;
  }

 private:
  /// Runs `body` while all ranks' offers are visible. A failed body still meets the others, which
  /// may be reading this rank's buffers.
  template <typename Body>
  absl::Status Collective(const Offer& offer, Body body) {
    if (absl::Status status = group_->Meet(rank_, offer); !status.ok()) return status;
    absl::Status result;
    for (int r = 0; r < size() && result.ok(); ++r) {
      if (group_->offer(r).operation != offer.operation) {
        result = absl::InternalError(
            absl::StrCat("rank ", r, " and rank ", rank_, " are in different collective calls"));
      }
    }
    if (result.ok()) result = body();
    if (absl::Status status = group_->Meet(); !status.ok()) return status;
    if (!result.ok()) group_->Break(result);
    return result;
  }

  absl::Status Fail(std::string message) {
    absl::Status status = absl::InternalError(message);
    group_->Break(status);
    return status;
  }

  static absl::Status Mismatch(int rank, size_t found, size_t expected, absl::string_view unit) {
    return absl::InternalError(
        absl::StrCat("rank ", rank, " has ", found, " ", unit, ", expected ", expected));
  }

  const std::shared_ptr<Group> group_;
  const int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeThreadCommunicators(int size) {
  auto group = std::make_shared<Group>(size);
  std::vector<std::unique_ptr<Communicator>> communicators;
  communicators.reserve(size);
  for (int rank = 0; rank < size; ++rank) {
    communicators.push_back(std::make_unique<ThreadCommunicator>(group, rank));
  }
  return communicators;
}

}  // namespace shardline::parallel

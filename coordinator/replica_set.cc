#include "coordinator/replica_set.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace shardline::coordinator {
namespace {

// Names come over the network and are kept.
constexpr size_t kMaxReplicas = 1024;
constexpr size_t kMaxNameBytes = 64;

absl::Status CheckName(const std::string& name) {
  const bool valid = !name.empty() && name.size() <= kMaxNameBytes &&
                     std::all_of(name.begin(), name.end(), [](char c) {
                       return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' ||
                              c == '_' || c == '.';
                     });
  if (valid) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "a replica's name (--replica) has 1 to ", kMaxNameBytes,
      " letters, digits, dots, dashes and underscores; this one has ", name.size(), " bytes"));
}

}  // namespace

ReplicaSet::ReplicaSet(ReplicaOptions options, int expected, Engine& engine)
    : options_(std::move(options)), engine_(engine) {
  std::lock_guard lock(mutex_);
  for (int i = 0; i < expected; ++i) MakeLocked(absl::StrCat(i));
}

std::shared_ptr<Replica> ReplicaSet::MakeLocked(const std::string& name) {
  ReplicaOptions options = options_;
  options.name = name;
  options.next_epoch = [counter = next_epoch_] { return (*counter)++; };
  return replicas_[name] = std::make_shared<Replica>(std::move(options), engine_);
}

absl::StatusOr<ReplicaSet::Attached> ReplicaSet::Attach(const v1::Hello& hello,
                                                        std::shared_ptr<RankStream> stream) {
  const absl::Status valid = CheckName(hello.replica());
  if (!valid.ok()) return valid;
  Attached attached;
  {
    std::lock_guard lock(mutex_);
    const auto found = replicas_.find(hello.replica());
    if (found != replicas_.end()) {
      attached.replica = found->second;
    } else if (replicas_.size() >= kMaxReplicas) {
      return absl::ResourceExhaustedError(
          absl::StrCat("there are ", kMaxReplicas, " replicas; no more can join"));
    } else {
      attached.replica = MakeLocked(hello.replica());
      spdlog::info("replica {} joins", hello.replica());
    }
  }
  const absl::StatusOr<uint64_t> epoch = attached.replica->Attach(hello, std::move(stream));
  if (!epoch.ok()) return epoch.status();
  attached.epoch = *epoch;
  return attached;
}

std::vector<std::shared_ptr<Replica>> ReplicaSet::All() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Replica>> all;
  for (const auto& [name, replica] : replicas_) all.push_back(replica);
  return all;
}

absl::StatusOr<std::shared_ptr<Replica>> ReplicaSet::Find(const std::string& name) const {
  std::lock_guard lock(mutex_);
  const auto found = replicas_.find(name);
  if (found != replicas_.end()) return found->second;
  const auto append = [](std::string* out, const auto& entry) { out->append(entry.first); };
  return absl::NotFoundError(
      absl::StrCat("no replica \"", name.substr(0, kMaxNameBytes),
                   "\"; there are: ", absl::StrJoin(replicas_, ", ", append)));
}

absl::Status ReplicaSet::SetDraining(const std::string& name, bool draining) {
  const absl::StatusOr<std::shared_ptr<Replica>> replica = Find(name);
  if (!replica.ok()) return replica.status();
  (*replica)->SetDraining(draining);
  return absl::OkStatus();
}

void ReplicaSet::AskExpertLoad(const std::string& name, Replica::ExpertLoadCallback done) {
  if (!name.empty()) {
    const absl::StatusOr<std::shared_ptr<Replica>> replica = Find(name);
    if (!replica.ok()) return done(replica.status());
    return (*replica)->AskExpertLoad(std::move(done));
  }
  for (const std::shared_ptr<Replica>& replica : All()) {
    if (replica->serving()) return replica->AskExpertLoad(std::move(done));
  }
  done(absl::UnavailableError("no replica serves; `shardline status` tells why"));
}

std::vector<ExpertCounts> ReplicaSet::CollectExpertLoad(std::chrono::milliseconds timeout) {
  struct Answers {
    std::mutex mutex;
    std::condition_variable changed;
    size_t missing = 0;
    std::vector<ExpertCounts> counts;
  };
  const auto answers = std::make_shared<Answers>();  // late ones come when we are gone
  std::vector<std::shared_ptr<Replica>> serving = All();
  std::erase_if(serving, [](const auto& replica) { return !replica->serving(); });
  answers->missing = serving.size();
  for (const std::shared_ptr<Replica>& replica : serving) {
    replica->AskExpertLoad([answers](absl::StatusOr<ExpertCounts> counts) {
      std::lock_guard lock(answers->mutex);
      if (counts.ok()) answers->counts.push_back(*std::move(counts));
      if (--answers->missing == 0) answers->changed.notify_all();
    });
  }
  std::unique_lock lock(answers->mutex);
  answers->changed.wait_for(lock, timeout, [&] { return answers->missing == 0; });
  return std::move(answers->counts);
}

void ReplicaSet::CheckTimeouts() {
  for (const std::shared_ptr<Replica>& replica : All()) replica->CheckTimeouts();
}

void ReplicaSet::Shutdown(const std::string& reason) {
  for (const std::shared_ptr<Replica>& replica : All()) replica->Shutdown(reason);
}

std::vector<v1::ReplicaStatus> ReplicaSet::Status() const {
  std::vector<v1::ReplicaStatus> all;
  for (const std::shared_ptr<Replica>& replica : All()) all.push_back(replica->Status());
  return all;
}

}  // namespace shardline::coordinator

#include "coordinator/request_table.h"

#include <openssl/sha.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "logging/event.h"

namespace shardline::coordinator {
namespace {

constexpr size_t kMostKept = 1024;  // answers that are kept for clients to come back

/// Of all fields that make a request what it is.
ActiveRequest::Digest DigestOf(v1::GenerateRequest request) {
  request.clear_request_id();
  request.clear_next_index();
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    request.SerializeToCodedStream(&coded);
  }
  ActiveRequest::Digest digest;
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest.data());
  return digest;
}

/// Not to be guessed: who knows an id can read and cancel the request.
std::string MakeRequestId() {
  thread_local std::random_device random;
  std::string id = "request-";
  for (int i = 0; i < 4; ++i) absl::StrAppend(&id, absl::Hex(random(), absl::kZeroPad8));
  return id;
}

}  // namespace

void RequestTable::ForgetOldestLocked() {
  std::vector<std::pair<ActiveRequest::Clock::time_point, std::string>> kept;
  for (const auto& [id, request] : requests_) {
    if (const auto since = request->kept_since()) kept.emplace_back(*since, id);
  }
  if (kept.size() <= kMostKept) return;
  std::sort(kept.begin(), kept.end());
  kept.resize(kept.size() - kMostKept);
  for (const auto& [since, id] : kept) {
    Forget(*requests_.at(id));
    requests_.erase(id);
  }
}

void RequestTable::Forget(const ActiveRequest& request) {
  if (context_.journal != nullptr) context_.journal->Forget(request.number());
}

void RequestTable::Restore(const std::vector<JournaledRequest>& requests,
                           std::chrono::seconds keep) {
  for (const JournaledRequest& earlier : requests) {
    v1::GenerateRequest message = earlier.accepted.request();
    ActiveRequest::Name name{message.request_id(), DigestOf(message), earlier.number};
    message.mutable_sampling()->set_seed(earlier.accepted.seed());
    message.mutable_sampling()->set_max_tokens(earlier.accepted.max_tokens());
    absl::StatusOr<PreparedRequest> prepared = Prepare(context_.served, message);
    if (!prepared.ok()) {
      logging::Event("a request of the journal is dropped: it cannot be served any more")
          .With("request_id", message.request_id())
          .With("error", std::string(prepared.status().message()))
          .Warn();
      context_.journal->Forget(earlier.number);
      continue;
    }
    const auto request = std::make_shared<ActiveRequest>(
        context_, std::move(name), std::chrono::seconds(message.linger_seconds()),
        *std::move(prepared));
    request->Restore(earlier, keep);
    {
      std::lock_guard lock(mutex_);
      requests_[request->request_id()] = request;
    }
    request->Start();
  }
  if (!requests.empty()) {
    spdlog::info("{} requests of the journal go on, or wait for their readers for {} s",
                 requests.size(), keep.count());
  }
}

std::shared_ptr<ActiveRequest> RequestTable::FindLocked(const std::string& request_id) const {
  const auto found = requests_.find(request_id);
  return found == requests_.end() ? nullptr : found->second;
}

absl::StatusOr<std::shared_ptr<ActiveRequest>> RequestTable::Open(
    const v1::GenerateRequest& message, std::shared_ptr<RequestReader> reader) {
  const std::string id = message.request_id().empty() ? MakeRequestId() : message.request_id();
  const ActiveRequest::Digest digest = DigestOf(message);
  // Under the lock that Release takes, so that the request is not forgotten before it is read.
  const auto attach = [&](std::shared_ptr<ActiveRequest> request)
      -> absl::StatusOr<std::shared_ptr<ActiveRequest>> {
    if (request->digest() != digest) {
      return absl::AlreadyExistsError(
          absl::StrCat("a request \"", id,
                       "\" with other fields is there already; give each its own "
                       "request_id, and the same fields to attach to one that runs"));
    }
    request->Attach(std::move(reader));
    return request;
  };
  {
    std::lock_guard lock(mutex_);
    const std::shared_ptr<ActiveRequest> found = FindLocked(id);
    if (found != nullptr && !found->failed()) return attach(found);
  }
  // Before the work of making tokens of a text is done for nothing.
  const absl::Status room = context_.engine.CheckRoom();
  if (!room.ok()) return room;
  absl::StatusOr<PreparedRequest> prepared = Prepare(context_.served, message);
  if (!prepared.ok()) return prepared.status();
  const SequenceRequest sequence = prepared->sequence;
  ActiveRequest::Name name{id, digest};
  if (context_.journal != nullptr) name.number = context_.journal->NewNumber();
  auto request = std::make_shared<ActiveRequest>(context_, std::move(name),
                                                 std::chrono::seconds(message.linger_seconds()),
                                                 *std::move(prepared));
  {
    std::lock_guard lock(mutex_);
    const std::shared_ptr<ActiveRequest> found = FindLocked(id);  // one may have come meanwhile
    if (found != nullptr && !found->failed()) return attach(found);
    if (found != nullptr) Forget(*found);
    requests_[id] = request;
    request->Attach(std::move(reader));
  }
  Start(request, message, sequence);
  return request;
}

void RequestTable::Start(const std::shared_ptr<ActiveRequest>& request,
                         const v1::GenerateRequest& message, const SequenceRequest& sequence) {
  if (context_.journal == nullptr) return request->Start();
  v1::JournalRecord record;
  record.set_request(request->number());
  v1::AcceptedRequest& accepted = *record.mutable_accepted();
  *accepted.mutable_request() = message;
  accepted.mutable_request()->set_request_id(request->request_id());
  accepted.mutable_request()->clear_next_index();
  accepted.set_seed(sequence.sampling.seed());
  accepted.set_max_tokens(static_cast<uint32_t>(sequence.max_tokens));
  context_.journal->Write(std::move(record), [request](const absl::Status& written) {
    written.ok() ? request->Start() : request->Refuse(written);
  });
}

absl::Status RequestTable::Cancel(const std::string& request_id) {
  std::shared_ptr<ActiveRequest> request;
  {
    std::lock_guard lock(mutex_);
    request = FindLocked(request_id);
  }
  if (request == nullptr || request->failed()) {
    return absl::NotFoundError(
        absl::StrCat("no request \"", request_id.substr(0, 200), "\" is running"));
  }
  request->Cancel();
  return absl::OkStatus();
}

void RequestTable::Release(const ActiveRequest& request) {
  std::lock_guard lock(mutex_);
  const auto found = requests_.find(request.request_id());
  if (found == requests_.end() || found->second.get() != &request) return;
  if (!request.disposable(ActiveRequest::Clock::now())) return;
  Forget(request);
  requests_.erase(found);
}

void RequestTable::Tick(std::chrono::seconds stalled_timeout) {
  const auto now = ActiveRequest::Clock::now();
  std::vector<std::shared_ptr<ActiveRequest>> open;
  {
    std::lock_guard lock(mutex_);
    std::erase_if(requests_, [&](const auto& entry) {
      if (!entry.second->disposable(now)) return false;
      entry.second->Expire();
      Forget(*entry.second);
      return true;
    });
    for (const auto& [id, request] : requests_) open.push_back(request);
    ForgetOldestLocked();
  }
  for (const std::shared_ptr<ActiveRequest>& request : open) {
    const int ended = request->EndStalledReaders(now - stalled_timeout);
    if (ended > 0) {
      logging::Event("a client has taken nothing for longer than --stalled-reader-timeout")
          .With("request_id", request->request_id())
          .With("seconds", int64_t{stalled_timeout.count()})
          .Warn();
    }
  }
}

}  // namespace shardline::coordinator

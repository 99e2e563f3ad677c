#include "coordinator/request_journal.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardline::coordinator {
namespace {

constexpr uint32_t kVersion = 1;
constexpr size_t kMostBatchBytes = 8 << 20;
// From a rewriting that failed to the next try.
constexpr std::chrono::seconds kRewritePause(1);

}  // namespace

absl::StatusOr<std::unique_ptr<RequestJournal>> RequestJournal::Open(
    const RequestJournalOptions& options, std::vector<JournaledRequest>& found) {
  std::unique_ptr<RequestJournal> requests(new RequestJournal(options));
  absl::StatusOr<std::unique_ptr<journal::Journal>> files = journal::Journal::Open(
      options.files, [&](std::string_view payload) { return requests->Read(payload, found); });
  if (!files.ok()) return files.status();
  requests->journal_ = *std::move(files);
  std::erase_if(found, [&](const JournaledRequest& request) {
    return !requests->alive_.contains(request.number);
  });
  const int64_t cut = requests->journal_->bytes_cut();
  if (cut > 0)
    spdlog::warn("journal {}: cut off {} bytes at its end", options.files.directory, cut);
  requests->thread_ = std::thread([journal = requests.get()] { journal->Run(); });
  return requests;
}

absl::Status RequestJournal::Read(std::string_view payload, std::vector<JournaledRequest>& found) {
  v1::JournalBatch batch;
  if (!batch.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
    return absl::DataLossError("not a batch of requests' records");
  }
  if (batch.has_owner()) {
    const v1::JournalOwner& owner = batch.owner();
    if (owner.version() != kVersion) {
      return absl::FailedPreconditionError(
          absl::StrCat("a journal of version ", owner.version(), ", not ", kVersion,
                       "; let the release that wrote it finish its requests"));
    }
    if (owner.fingerprint() != options_.fingerprint) {
      return absl::FailedPreconditionError(
          absl::StrCat("the journal is of another checkpoint, that was served as \"", owner.model(),
                       "\"; give another --journal, or remove this one with its requests"));
    }
    owner_written_ = true;
  }
  for (v1::JournalRecord& record : *batch.mutable_records()) {
    next_number_ = std::max(next_number_, record.request() + 1);
    if (record.has_accepted()) {
      alive_.insert(record.request());
      JournaledRequest& request = found.emplace_back();
      request.number = record.request();
      request.accepted = std::move(*record.mutable_accepted());
      continue;
    }
    if (record.has_forgotten()) alive_.erase(record.request());
    // Numbers rise from request to request.
    const auto at = std::lower_bound(
        found.begin(), found.end(), record.request(),
        [](const JournaledRequest& one, uint64_t number) { return one.number < number; });
    if (at == found.end() || at->number != record.request()) continue;
    if (record.has_cancelled()) at->cancelled = true;
    if (!record.has_token()) continue;
    const uint32_t answer = record.token().answer();
    const uint32_t wanted = std::max(1u, at->accepted.request().sampling().n());
    if (answer >= wanted) return absl::DataLossError("a token of an answer that nobody wants");
    at->answers.resize(wanted);
    // Where the disk was full, some are missing; what follows them is made again too.
    std::vector<v1::AnswerToken>& tokens = at->answers[answer];
    if (record.token().index() == tokens.size())
      tokens.push_back(std::move(*record.mutable_token()));
  }
  return absl::OkStatus();
}

RequestJournal::~RequestJournal() { Close(); }

uint64_t RequestJournal::NewNumber() {
  std::lock_guard lock(mutex_);
  return next_number_++;
}

void RequestJournal::Write(v1::JournalRecord record, Done done) {
  Post({std::move(record), std::move(done)});
}

void RequestJournal::Forget(uint64_t number, Done done) {
  v1::JournalRecord record;
  record.set_request(number);
  record.mutable_forgotten();
  Post({std::move(record), std::move(done)});
}

void RequestJournal::Post(Entry entry) {
  {
    std::lock_guard lock(mutex_);
    if (!closed_) {
      entries_.push_back(std::move(entry));
      wake_.notify_one();
      return;
    }
  }
  entry.done(absl::OkStatus());
}

void RequestJournal::Close() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

absl::Status RequestJournal::state() const {
  std::lock_guard lock(mutex_);
  return state_;
}

void RequestJournal::Run() {
  while (true) {
    std::vector<Entry> entries;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return closing_ || !entries_.empty(); });
      if (entries_.empty()) {
        closed_ = true;
        return;
      }
      entries.swap(entries_);
    }
    WriteBatches(std::move(entries));
    RewriteIfDue();
  }
}

void RequestJournal::WriteBatches(std::vector<Entry> entries) {
  for (size_t next = 0; next < entries.size();) {
    const size_t begin = next;
    v1::JournalBatch batch;
    for (size_t bytes = 0; next < entries.size() && bytes < kMostBatchBytes; ++next) {
      v1::JournalRecord& record = entries[next].record;
      if (record.has_accepted()) alive_.insert(record.request());
      // What was refused, or is forgotten, needs no word.
      if (!alive_.contains(record.request())) continue;
      bytes += record.ByteSizeLong();
      *batch.add_records() = std::move(record);
    }
    const absl::Status status = batch.records().empty() ? absl::OkStatus() : WriteBatch(batch);
    if (!batch.records().empty()) KeepUp(batch, status.ok());
    for (size_t i = begin; i < next; ++i) entries[i].done(status);
  }
}

absl::Status RequestJournal::WriteBatch(v1::JournalBatch batch) {
  if (!owner_written_) {
    v1::JournalOwner& owner = *batch.mutable_owner();
    owner.set_version(kVersion);
    owner.set_model(options_.model);
    owner.set_fingerprint(options_.fingerprint);
  }
  absl::Status status = journal_->Append(batch.SerializeAsString());
  if (status.ok()) {
    owner_written_ = true;
  } else {
    status = absl::Status(
        status.code(),
        absl::StrCat("the journal in ", directory(),
                     " (--journal) takes nothing, so neither does the server: ", status.message()));
  }
  NoteState(status);
  return status;
}

void RequestJournal::NoteState(const absl::Status& status) {
  std::lock_guard lock(mutex_);
  if (state_.ok() && !status.ok()) spdlog::error("{}", std::string(status.message()));
  if (!state_.ok() && status.ok()) spdlog::info("the journal in {} is written again", directory());
  state_ = status;
}

void RequestJournal::KeepUp(const v1::JournalBatch& batch, bool written) {
  for (const v1::JournalRecord& record : batch.records()) {
    if (record.has_forgotten()) alive_.erase(record.request());
    if (record.has_forgotten() && !written) stale_ = true;
    if (record.has_accepted() && !written) alive_.erase(record.request());
  }
}

void RequestJournal::RewriteIfDue() {
  if (!stale_ && !journal_->rewriting_is_due()) return;
  const auto now = std::chrono::steady_clock::now();
  if (now < next_rewrite_) return;
  const int64_t before = journal_->bytes();
  const absl::Status rewritten =
      journal_->Rewrite([this](std::string_view payload) { return KeepAlive(payload); });
  if (!rewritten.ok()) {
    next_rewrite_ = now + kRewritePause;
    spdlog::warn("journal {}: cannot be made smaller: {}", directory(),
                 std::string(rewritten.message()));
    return;
  }
  stale_ = false;
  spdlog::debug("journal {}: {} bytes, {} before", directory(), journal_->bytes(), before);
}

std::string RequestJournal::KeepAlive(std::string_view payload) const {
  v1::JournalBatch batch, kept;
  if (!batch.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) return "";
  if (batch.has_owner()) *kept.mutable_owner() = std::move(*batch.mutable_owner());
  for (v1::JournalRecord& record : *batch.mutable_records()) {
    if (alive_.contains(record.request())) *kept.add_records() = std::move(record);
  }
  return kept.SerializeAsString();
}

}  // namespace shardline::coordinator

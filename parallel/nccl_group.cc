#include "parallel/nccl_group.h"

#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shardline::parallel {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPollInterval = std::chrono::milliseconds(100);
constexpr auto kInitInterval = std::chrono::milliseconds(1);
constexpr int kExitFailed = 7;  // as `shardline --help` lists it

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

absl::Status CudaStatus(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cudaGetErrorString(code)));
}

}  // namespace

absl::StatusOr<NcclId> MakeNcclId() {
  static_assert(sizeof(ncclUniqueId) == sizeof(NcclId));
  ncclUniqueId id;
  const ncclResult_t result = ncclGetUniqueId(&id);
  if (result != ncclSuccess) {
    return absl::UnavailableError(absl::StrCat("ncclGetUniqueId: ", ncclGetErrorString(result),
                                               ": ", ncclGetLastError(nullptr)));
  }
  NcclId bytes;
  std::memcpy(bytes.data(), &id, sizeof(id));
  return bytes;
}

NcclGroup::NcclGroup(int rank, int size, cudaStream_t stream, const NcclOptions& options)
    : rank_(rank), size_(size), stream_(stream), options_(options) {}

absl::StatusOr<std::unique_ptr<NcclGroup>> NcclGroup::Connect(const NcclId& id, int rank, int size,
                                                              int device, cudaStream_t stream,
                                                              const NcclOptions& options) {
  std::unique_ptr<NcclGroup> group(new NcclGroup(rank, size, stream, options));
  group->device_ = device;
  absl::Status status = CudaStatus(cudaSetDevice(device), "cudaSetDevice");
  if (!status.ok()) return status;
  for (NcclCall& call : group->calls_) {
    status =
        CudaStatus(cudaEventCreateWithFlags(&call.done, cudaEventDisableTiming), "cudaEventCreate");
    if (!status.ok()) return status;
  }
  ncclUniqueId unique;
  std::memcpy(&unique, id.data(), sizeof(unique));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  const ncclResult_t result = ncclCommInitRankConfig(&group->comm_, size, unique, rank, &config);
  if (result != ncclSuccess && result != ncclInProgress) {
    return group->FromNccl(result, "ncclCommInitRankConfig");
  }
  status = group->WaitUntilReady("ncclCommInitRankConfig");
  if (!status.ok()) return status;
  group->watcher_ = std::thread([raw = group.get()] { raw->Watch(); });
  return group;
}

NcclGroup::~NcclGroup() {
  if (watcher_.joinable()) {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    stopped_.notify_all();
    watcher_.join();
  }
  // Abort, not destroy: peers may be gone, and what matters has been waited for.
  if (comm_ != nullptr) ncclCommAbort(comm_);
  for (NcclCall& call : calls_) {
    if (call.done != nullptr) cudaEventDestroy(call.done);
  }
}

absl::Status NcclGroup::FromNccl(ncclResult_t result, const char* what) const {
  if (result == ncclSuccess) return absl::OkStatus();
  const std::string message =
      absl::StrCat(what, " (rank ", rank_, " of ", size_, "): ", ncclGetErrorString(result), ": ",
                   ncclGetLastError(comm_));
  const bool ours = result == ncclInvalidArgument || result == ncclInvalidUsage;
  return ours ? absl::InternalError(message) : absl::UnavailableError(message);
}

/// A non-blocking communicator takes the next call when the last has been accepted by all.
absl::Status NcclGroup::WaitUntilReady(const char* what) {
  const Clock::time_point start = Clock::now();
  while (true) {
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(comm_, &state);
    if (asked != ncclSuccess) return FromNccl(asked, "ncclCommGetAsyncError");
    if (state != ncclInProgress) return FromNccl(state, what);
    if (Clock::now() - start > options_.timeout) {
      return absl::UnavailableError(absl::StrCat(what, " (rank ", rank_, " of ", size_,
                                                 "): the other ranks did not join within ",
                                                 options_.timeout.count(), " s"));
    }
    std::this_thread::sleep_for(kInitInterval);
  }
}

NcclCall* NcclGroup::NextCall(const char* name, size_t bytes, int peer) {
  const std::lock_guard lock(mutex_);
  NcclCall& call = calls_[++last_ % kRecorded];
  call.number = last_;
  call.name = name;
  call.bytes = bytes;
  call.peer = peer;
  call.enqueued = Clock::now();
  call.pending = false;  // not before its event is recorded
  return &call;
}

absl::Status NcclGroup::RecordEnd(NcclCall& call) {
  absl::Status status = CudaStatus(cudaEventRecord(call.done, stream_), "cudaEventRecord");
  const std::lock_guard lock(mutex_);
  call.pending = status.ok();
  return status;
}

absl::Status NcclGroup::Enqueue(const char* name, size_t bytes, int peer,
                                const std::function<ncclResult_t(ncclComm_t)>& body) {
  NcclCall* const call = NextCall(name, bytes, peer);
  const absl::Status status = EnqueueCaptured(name, body);
  return status.ok() ? RecordEnd(*call) : status;
}

absl::Status NcclGroup::EnqueueCaptured(const char* name,
                                        const std::function<ncclResult_t(ncclComm_t)>& body) {
  ncclResult_t result = ncclGroupStart();
  if (result == ncclSuccess) {
    const ncclResult_t enqueued = body(comm_);
    result = ncclGroupEnd();
    if (enqueued != ncclSuccess && enqueued != ncclInProgress) result = enqueued;
  }
  return result == ncclInProgress ? WaitUntilReady(name) : FromNccl(result, name);
}

absl::Status NcclGroup::NoteLaunch() { return RecordEnd(*NextCall("graph", 0, -1)); }

std::string NcclGroup::Trouble() {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = ncclCommGetAsyncError(comm_, &state);
  if (asked != ncclSuccess) state = asked;
  if (state != ncclSuccess && state != ncclInProgress) {
    return absl::StrCat(ncclGetErrorString(state), ": ", ncclGetLastError(comm_));
  }
  const std::lock_guard lock(mutex_);
  for (NcclCall& call : calls_) {
    if (!call.pending) continue;
    const cudaError_t event = cudaEventQuery(call.done);
    if (event == cudaErrorNotReady) {
      if (Clock::now() - call.enqueued > options_.timeout) {
        return absl::StrCat("call ", call.number, " (", call.name, ") has not ended after ",
                            options_.timeout.count(), " s");
      }
      continue;
    }
    call.pending = false;
    if (event != cudaSuccess) {
      return absl::StrCat("call ", call.number, " (", call.name, "): ", cudaGetErrorString(event));
    }
  }
  return "";
}

void NcclGroup::Watch() {
  cudaSetDevice(device_);
  while (true) {
    {
      std::unique_lock lock(mutex_);
      if (stopped_.wait_for(lock, kPollInterval, [this] { return stop_; })) return;
    }
    const std::string trouble = Trouble();
    if (!trouble.empty()) End(trouble);
  }
}

void NcclGroup::End(const std::string& why) {
  std::fprintf(stderr, "error: NCCL, rank %d of %d: %s\nthe last calls of this group:\n", rank_,
               size_, why.c_str());
  const std::lock_guard lock(mutex_);
  for (uint64_t i = 1; i <= kRecorded; ++i) {
    const NcclCall& call = calls_[(last_ + i) % kRecorded];
    if (call.number == 0) continue;
    std::fprintf(stderr, "  %llu %s %zu bytes", static_cast<unsigned long long>(call.number),
                 call.name, call.bytes);
    if (call.peer >= 0) std::fprintf(stderr, ", peer %d", call.peer);
    std::fprintf(stderr, ", %.3f s ago%s\n", SecondsSince(call.enqueued),
                 call.pending ? ", not ended" : "");
  }
  std::fflush(stderr);
  _exit(kExitFailed);
}

}  // namespace shardline::parallel

#include "parallel/mpi_calls.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstring>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace shardline::parallel {

absl::Status FromMpi(int code, absl::string_view call) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  int error_class = MPI_ERR_UNKNOWN;
  MPI_Error_class(code, &error_class);
  const std::string message =
      absl::StrCat(call, ": ", absl::string_view(text, static_cast<size_t>(length)));
  switch (error_class) {
    case MPI_ERR_TRUNCATE:
    case MPI_ERR_ARG:
    case MPI_ERR_BUFFER:
    case MPI_ERR_COUNT:
    case MPI_ERR_TYPE:
    case MPI_ERR_TAG:
    case MPI_ERR_RANK:
    case MPI_ERR_ROOT:
    case MPI_ERR_COMM:
    case MPI_ERR_REQUEST:
      return absl::InternalError(message);
    default:
      return absl::UnavailableError(message);
  }
}

MpiBytes::MpiBytes(size_t size) {
  if (size <= INT_MAX) {
    count_ = static_cast<int>(size);
    return;
  }
  constexpr size_t kBlock = size_t{1} << 30;
  MPI_Datatype block = MPI_DATATYPE_NULL;
  MPI_Type_contiguous(static_cast<int>(kBlock), MPI_BYTE, &block);
  const int lengths[] = {static_cast<int>(size / kBlock), static_cast<int>(size % kBlock)};
  const MPI_Aint places[] = {0, static_cast<MPI_Aint>(size / kBlock * kBlock)};
  const MPI_Datatype types[] = {block, MPI_BYTE};
  MPI_Type_create_struct(2, lengths, places, types, &type_);
  MPI_Type_commit(&type_);
  MPI_Type_free(&block);
  count_ = 1;
}

MpiBytes::~MpiBytes() {
  // MPI keeps the type until the calls that use it are complete.
  if (type_ != MPI_BYTE) MPI_Type_free(&type_);
}

size_t MessageSize(const MPI_Status& status) {
  MPI_Count size = 0;
  MPI_Get_elements_x(&status, MPI_BYTE, &size);
  return size == MPI_UNDEFINED ? 0 : static_cast<size_t>(size);
}

void Patience::Yield() {
  constexpr int kPolls = 200;
  if (++polls_ > kPolls) sched_yield();
}

void Patience::Doze(std::chrono::microseconds longest_nap) {
  constexpr int kPolls = 200;
  constexpr auto kAwake = std::chrono::milliseconds(5);
  constexpr std::chrono::microseconds kShortestNap(50);
  if (++polls_ < kPolls) return;
  const auto now = std::chrono::steady_clock::now();
  if (polls_ == kPolls) start_ = now;
  const auto waited = std::chrono::duration_cast<std::chrono::microseconds>(now - start_);
  if (waited < kAwake) {
    sched_yield();
    return;
  }
  // A small share of the time already waited: a message comes at most that much later.
  std::this_thread::sleep_for(std::max(kShortestNap, std::min(longest_nap, waited / 64)));
}

namespace {

absl::Status WrongSize(int from, int tag, size_t size, size_t expected) {
  return absl::InternalError(absl::StrCat("message from rank ", from, " with tag ", tag, ": ", size,
                                          " bytes, expected ", expected));
}

/// The size of what came; it is received when that is data.size().
absl::StatusOr<size_t> ReceiveWhole(MPI_Comm comm, std::span<std::byte> data, int from, int tag) {
  // Probing first tells when the message has arrived, from when on only polling is fast, and its
  // size.
  Patience arrival;
  MPI_Message message = MPI_MESSAGE_NULL;
  MPI_Status status;
  for (;;) {
    int found = 0;
    const int code = MPI_Improbe(from, tag, comm, &found, &message, &status);
    if (code != MPI_SUCCESS) return FromMpi(code, "MPI_Improbe");
    if (found != 0) break;
    arrival.Doze(std::chrono::milliseconds(1));
  }
  const size_t size = MessageSize(status);
  if (size != data.size()) return size;
  const MpiBytes bytes(size);
  MPI_Request request = MPI_REQUEST_NULL;
  int code = MPI_Imrecv(data.data(), bytes.count(), bytes.type(), &message, &request);
  Patience transfer;
  for (int done = 0; code == MPI_SUCCESS;) {
    code = MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (done != 0) break;
    transfer.Yield();
  }
  if (code != MPI_SUCCESS) return FromMpi(code, "MPI_Imrecv");
  return size;
}

}  // namespace

absl::Status ReceiveMessage(MPI_Comm comm, std::span<std::byte> data, int from, int tag) {
  const size_t size = data.size();
  if (!TravelsInPieces(size)) {
    const absl::StatusOr<size_t> came = ReceiveWhole(comm, data, from, tag);
    if (!came.ok()) return came.status();
    return *came == size ? absl::OkStatus() : WrongSize(from, tag, *came, size);
  }
  std::array<std::byte, kPieceBytes> first;
  absl::StatusOr<size_t> came = ReceiveWhole(comm, first, from, tag);
  if (!came.ok()) return came.status();
  if (*came != first.size()) return WrongSize(from, tag, *came, size);
  uint64_t whole = 0;
  std::memcpy(&whole, first.data(), sizeof(whole));
  if (whole != size) return WrongSize(from, tag, whole, size);
  size_t at = first.size() - sizeof(whole);
  std::memcpy(data.data(), first.data() + sizeof(whole), at);
  while (at < size) {
    const std::span<std::byte> piece = data.subspan(at, std::min(kPieceBytes, size - at));
    came = ReceiveWhole(comm, piece, from, tag);
    if (!came.ok()) return came.status();
    if (*came != piece.size()) return WrongSize(from, tag, *came, piece.size());
    at += piece.size();
  }
  return absl::OkStatus();
}

absl::Status Requests::Send(MPI_Comm comm, std::span<const std::byte> data, int to, int tag) {
  const MpiBytes bytes(data.size());
  MPI_Request request = MPI_REQUEST_NULL;
  const int code = MPI_Isend(data.data(), bytes.count(), bytes.type(), to, tag, comm, &request);
  if (code != MPI_SUCCESS) return FromMpi(code, "MPI_Isend");
  requests_.push_back(request);
  expected_.push_back({});
  return absl::OkStatus();
}

absl::Status Requests::Receive(MPI_Comm comm, std::span<std::byte> data, int from, int tag) {
  const MpiBytes bytes(data.size());
  MPI_Request request = MPI_REQUEST_NULL;
  const int code = MPI_Irecv(data.data(), bytes.count(), bytes.type(), from, tag, comm, &request);
  if (code != MPI_SUCCESS) return FromMpi(code, "MPI_Irecv");
  requests_.push_back(request);
  expected_.push_back({.receive = true, .from = from, .size = data.size()});
  return absl::OkStatus();
}

absl::Status Requests::Wait() {
  if (requests_.empty()) return absl::OkStatus();
  statuses_.resize(requests_.size());
  Patience patience;
  int code = MPI_SUCCESS;
  for (int done = 0;;) {
    code =
        MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, statuses_.data());
    if (done != 0 || code != MPI_SUCCESS) break;
    patience.Yield();
  }
  absl::Status status = CheckReceived(code);
  if (!status.ok()) {
    // The rank ends after this. What can be withdrawn is, so that no late message is written to
    // memory that the caller has freed.
    for (MPI_Request& request : requests_) {
      if (request == MPI_REQUEST_NULL) continue;
      MPI_Cancel(&request);
      MPI_Request_free(&request);
    }
  }
  requests_.clear();
  expected_.clear();
  return status;
}

absl::Status Requests::CheckReceived(int code) {
  for (size_t i = 0; i < requests_.size(); ++i) {
    // Fields of a status are set only for a receive that is complete, MPI_ERROR only when the call
    // says so.
    const int error = code == MPI_ERR_IN_STATUS ? statuses_[i].MPI_ERROR : MPI_SUCCESS;
    if (error == MPI_ERR_PENDING) continue;
    if (error == MPI_ERR_TRUNCATE) {
      return absl::InternalError(absl::StrCat("message from rank ", expected_[i].from,
                                              ": longer than the ", expected_[i].size,
                                              " bytes expected"));
    }
    if (error != MPI_SUCCESS) return FromMpi(error, "waiting for a message");
    if (code != MPI_SUCCESS || !expected_[i].receive) continue;
    const size_t size = MessageSize(statuses_[i]);
    if (size != expected_[i].size) {
      return absl::InternalError(absl::StrCat("message from rank ", expected_[i].from, ": ", size,
                                              " bytes, expected ", expected_[i].size));
    }
  }
  return code == MPI_ERR_IN_STATUS
             ? absl::InternalError("waiting for messages: an error that no message explains")
             : FromMpi(code, "waiting for messages");
}

}  // namespace shardline::parallel

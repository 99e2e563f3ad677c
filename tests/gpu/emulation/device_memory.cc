#include "tests/gpu/emulation/device_memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <map>

namespace shardline::emulation::device_memory {
namespace {

constexpr size_t kPage = 4096, kAlignment = 256;

struct Piece {
  void* mapping;
  size_t mapped, bytes;
  cudaMemoryType type;
};
std::map<uintptr_t, Piece> pieces;  // by their first byte
size_t used = 0;

size_t RoundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

void* Allocate(size_t bytes, cudaMemoryType type) {
  if (bytes == 0 || bytes > kTotalBytes - used) return nullptr;
  const size_t kept = RoundUp(bytes, kAlignment), pages = RoundUp(kept, kPage);
  void* const mapping = mmap(nullptr, pages + 2 * kPage, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return nullptr;
  auto* const first = static_cast<std::byte*>(mapping) + kPage;
  if (mprotect(first, pages, PROT_READ | PROT_WRITE) != 0) return nullptr;
  std::byte* const data = first + pages - kept;
  std::memset(data, 0xff, kept);
  pieces[reinterpret_cast<uintptr_t>(data)] = {mapping, pages + 2 * kPage, bytes, type};
  used += bytes;
  return data;
}

bool Free(void* data) {
  const auto piece = pieces.find(reinterpret_cast<uintptr_t>(data));
  if (piece == pieces.end()) return false;
  used -= piece->second.bytes;
  munmap(piece->second.mapping, piece->second.mapped);
  pieces.erase(piece);
  return true;
}

size_t UsedBytes() { return used; }

cudaMemoryType TypeOf(const void* data, size_t bytes) {
  const auto at = reinterpret_cast<uintptr_t>(data);
  auto piece = pieces.upper_bound(at);
  if (piece == pieces.begin()) return cudaMemoryTypeUnregistered;
  --piece;
  return at + bytes <= piece->first + piece->second.bytes ? piece->second.type
                                                          : cudaMemoryTypeUnregistered;
}

}  // namespace shardline::emulation::device_memory

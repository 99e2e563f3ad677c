#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace shardline::model {

/// A regular file mapped read-only. Only pages that are read become resident. A file that another
/// process truncates while it is mapped ends this process (SIGBUS), as with every mapping.
class MappedFile {
 public:
  /// kNotFound, kInvalidArgument (directory, device, empty) or kPermissionDenied, naming the path.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  /// Lets go of the pages that were read; they are read again when needed.
  void ReleasePages() const;

 private:
  MappedFile(const std::byte* data, size_t size) : data_(data), size_(size) {}
  const std::byte* data_;
  size_t size_;
};

}  // namespace shardline::model

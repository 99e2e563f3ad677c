#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

namespace shardline::fuzz {

/// One input that holds several files: a line "%% NAME" begins each, and what follows it, up to the
/// next such line, is its content, byte for byte. Views into the input. Anything before the first
/// such line, and of files with one name all but the first, is left out.
using Archive = std::map<std::string, std::string_view, std::less<>>;
Archive ReadArchive(std::string_view input);

/// The named file, or an empty view.
std::string_view FileOf(const Archive& archive, std::string_view name);

/// A directory of its own in the system's temporary directory; it goes when the process ends.
class ScratchDirectory {
 public:
  ScratchDirectory();
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;

  /// Makes its content the archive's files, of those whose names are plain.
  void Fill(const Archive& archive);
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace shardline::fuzz

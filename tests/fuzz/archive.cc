#include "tests/fuzz/archive.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace shardline::fuzz {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMark = "%% ";
constexpr size_t kMaxNameBytes = 64;

/// Where the next line that begins with the mark begins, or npos.
size_t NextMark(std::string_view input, size_t from) {
  for (size_t at = input.find(kMark, from); at != std::string_view::npos;
       at = input.find(kMark, at + 1)) {
    if (at == 0 || input[at - 1] == '\n') return at;
  }
  return std::string_view::npos;
}

bool IsPlainName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes && name[0] != '.' &&
         name.find_first_of(std::string_view("/\0", 2)) == std::string_view::npos;
}

}  // namespace

Archive ReadArchive(std::string_view input) {
  Archive archive;
  size_t at = NextMark(input, 0);
  while (at != std::string_view::npos) {
    const size_t name = at + kMark.size();
    const size_t line_end = input.find('\n', name);
    if (line_end == std::string_view::npos) break;
    at = NextMark(input, line_end + 1);
    const size_t end = at == std::string_view::npos ? input.size() : at - 1;
    const size_t begin = std::min(line_end + 1, end);
    archive.emplace(input.substr(name, line_end - name), input.substr(begin, end - begin));
  }
  return archive;
}

std::string_view FileOf(const Archive& archive, std::string_view name) {
  const auto found = archive.find(name);
  return found == archive.end() ? std::string_view() : found->second;
}

ScratchDirectory::ScratchDirectory() {
  path_ = (fs::temp_directory_path() / "shardline-fuzz.XXXXXX").string();
  if (mkdtemp(path_.data()) == nullptr) {
    std::perror(path_.c_str());
    std::abort();
  }
}

ScratchDirectory::~ScratchDirectory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void ScratchDirectory::Fill(const Archive& archive) {
  for (const fs::directory_entry& entry : fs::directory_iterator(path_)) fs::remove(entry.path());
  for (const auto& [name, content] : archive) {
    if (!IsPlainName(name)) continue;
    std::ofstream(fs::path(path_) / name, std::ios::binary) << content;
  }
}

}  // namespace shardline::fuzz

#pragma once

#include <string>

namespace shardline::cli {

/// Lines of stdin, with stop signals noticed while it waits (they must be blocked). Reads the
/// descriptor itself: nothing else may read stdin meanwhile.
class LineReader {
 public:
  enum class Got { kLine, kEnd, kInterrupt, kTerminate };

  /// Waits for a line, without its newline; a last line without one counts. kInterrupt: SIGINT,
  /// kTerminate: SIGTERM.
  Got Next(std::string& line);

 private:
  std::string buffer_;
  bool ended_ = false;
};

}  // namespace shardline::cli

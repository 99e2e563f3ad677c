#include "cli/line_reader.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "cli/interrupt.h"

namespace shardline::cli {

LineReader::Got LineReader::Next(std::string& line) {
  while (true) {
    const size_t newline = buffer_.find('\n');
    if (newline != std::string::npos) {
      line = buffer_.substr(0, newline);
      buffer_.erase(0, newline + 1);
      return Got::kLine;
    }
    if (ended_) {
      if (buffer_.empty()) return Got::kEnd;
      line = std::move(buffer_);
      buffer_.clear();
      return Got::kLine;
    }
    pollfd watched[] = {{STDIN_FILENO, POLLIN, 0}, {StopSignalDescriptor(), POLLIN, 0}};
    if (poll(watched, 2, -1) < 0 && errno != EINTR) return Got::kEnd;
    if (watched[1].revents != 0) {
      const int signal = TakeStopSignal(0);
      if (signal == SIGINT) return Got::kInterrupt;
      if (signal == SIGTERM) return Got::kTerminate;
    }
    if (watched[0].revents == 0) continue;
    char chunk[4096];
    const ssize_t count = read(STDIN_FILENO, chunk, sizeof(chunk));
    if (count > 0) buffer_.append(chunk, count);
    if (count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN)) ended_ = true;
  }
}

}  // namespace shardline::cli

#include "cli/interrupt.h"

#include <csignal>
#include <ctime>
#include <utility>

namespace shardline::cli {
namespace {

sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

}  // namespace

void BlockStopSignals() {
  const sigset_t signals = StopSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

int TakeStopSignal(int milliseconds) {
  const sigset_t signals = StopSignals();
  const timespec wait{milliseconds / 1000, milliseconds % 1000 * 1'000'000L};
  const int signal = sigtimedwait(&signals, nullptr, &wait);
  return signal > 0 ? signal : 0;
}

InterruptWatcher::InterruptWatcher(std::function<void()> on_signal)
    : thread_([this, on_signal = std::move(on_signal)] {
        while (!done_) {
          if (TakeStopSignal(50) == 0) continue;
          interrupted_ = true;
          return on_signal();
        }
      }) {}

InterruptWatcher::~InterruptWatcher() {
  done_ = true;
  thread_.join();
}

}  // namespace shardline::cli

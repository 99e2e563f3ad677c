#include "cli/interrupt.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

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

int StopSignalDescriptor() {
  static const int descriptor = [] {
    const sigset_t signals = StopSignals();
    return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  }();
  return descriptor;
}

InterruptWatcher::InterruptWatcher(std::function<void()> on_signal)
    : wake_(eventfd(0, EFD_CLOEXEC)), thread_([this, on_signal = std::move(on_signal)] {
        pollfd watched[] = {{StopSignalDescriptor(), POLLIN, 0}, {wake_, POLLIN, 0}};
        while (watched[1].revents == 0) {
          if (poll(watched, 2, -1) <= 0 || watched[0].revents == 0) continue;
          const int signal = TakeStopSignal(0);
          if (signal == 0) continue;
          signal_ = signal;
          return on_signal();
        }
      }) {}

InterruptWatcher::~InterruptWatcher() {
  eventfd_write(wake_, 1);
  thread_.join();
  close(wake_);
}

}  // namespace shardline::cli

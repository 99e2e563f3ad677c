#include "cli/child_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace shardline::cli {
namespace {

/// In the child, between fork and exec: only async-signal-safe calls.
[[noreturn]] void Execute(char* const* arguments, int death_signal, pid_t parent, int in, int out,
                          int error_pipe) {
  prctl(PR_SET_PDEATHSIG, death_signal);
  if (getppid() != parent) _exit(127);  // it died before we asked to be told
  setpgid(0, 0);
  signal(SIGPIPE, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  dup2(in, STDIN_FILENO);
  dup2(out, STDOUT_FILENO);
  dup2(out, STDERR_FILENO);
  execv(arguments[0], arguments);
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(error_pipe, &error, sizeof(error));
  _exit(127);
}

/// The parent of a process, or 0.
pid_t ParentOf(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/stat"));
  std::string text;
  std::getline(file, text);
  const size_t name_end = text.rfind(')');  // the name may hold anything
  int parent = 0;
  char state = 0;
  if (name_end == std::string::npos ||
      std::sscanf(text.c_str() + name_end + 1, " %c %d", &state, &parent) != 2) {
    return 0;
  }
  return parent;
}

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::Start(const ChildOptions& options) {
  std::vector<char*> arguments;
  for (const std::string& argument : options.command) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  const int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
  const int out = open(options.log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (out < 0) {
    const int error = errno;
    close(in);
    return absl::InternalError(
        absl::StrCat("cannot write ", options.log, ": ", std::strerror(error)));
  }
  int error_pipe[2] = {-1, -1};  // closed by a successful exec
  const pid_t parent = getpid();
  pid_t pid = -1;
  if (pipe2(error_pipe, O_CLOEXEC) == 0) pid = fork();
  if (pid == 0) {
    Execute(arguments.data(), options.death_signal, parent, in, out, error_pipe[1]);
  }
  int error = pid < 0 ? errno : 0;
  close(in);
  close(out);
  close(error_pipe[1]);
  if (pid > 0) {
    setpgid(pid, pid);
    if (read(error_pipe[0], &error, sizeof(error)) > 0) waitpid(pid, nullptr, 0);
  }
  close(error_pipe[0]);
  if (error != 0) {
    return absl::InternalError(
        absl::StrCat("cannot start ", options.command[0], ": ", std::strerror(error)));
  }
  return ChildProcess(pid);
}

std::optional<std::string> ChildProcess::Ended() {
  if (end_) return end_;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return std::nullopt;
  if (WIFSIGNALED(status)) {
    end_ = absl::StrCat("signal ", WTERMSIG(status), ", ", strsignal(WTERMSIG(status)));
  } else {
    exit_code_ = WEXITSTATUS(status);
    end_ = absl::StrCat("exit code ", *exit_code_);
  }
  return end_;
}

void ChildProcess::Signal(int signal) const {
  if (!end_) kill(pid_, signal);
}

void ChildProcess::Kill() {
  kill(-pid_, SIGKILL);  // the group may outlive its leader
  while (!Ended()) usleep(1000);
}

void AdoptOrphans() { prctl(PR_SET_CHILD_SUBREAPER, 1); }

void KillOrphans(const std::vector<pid_t>& known) {
  // A dying orphan may hand us children of its own: until none is left.
  bool found = true;
  while (found) {
    found = false;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
      int pid = 0;
      if (!absl::SimpleAtoi(entry.path().filename().c_str(), &pid)) continue;
      if (ParentOf(pid) != getpid()) continue;
      if (std::find(known.begin(), known.end(), pid) != known.end()) continue;
      found = true;
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    }
  }
}

}  // namespace shardline::cli

#include "cli/preflight.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace shardline::cli {
namespace {

namespace fs = std::filesystem;

bool IsProgram(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error) && access(path.c_str(), X_OK) == 0;
}

absl::StatusOr<std::string> FindProgram(const std::string& name, bool beside,
                                        const std::string& advice) {
  std::error_code error;
  if (beside) {
    const fs::path path = fs::read_symlink("/proc/self/exe", error).parent_path() / name;
    if (IsProgram(path)) return path.string();
  }
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  std::string folder;
  while (std::getline(folders, folder, ':')) {
    const fs::path candidate = fs::absolute(fs::path(folder) / name, error);
    if (!folder.empty() && IsProgram(candidate)) return candidate.string();
  }
  return absl::UnavailableError(absl::StrCat(
      name, " is not ", beside ? "next to this program nor " : "", "in PATH; ", advice));
}

struct HostPort {
  std::string host;
  std::string port;
};

absl::StatusOr<HostPort> Split(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  int number = -1;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(listen.substr(colon + 1), &number) || number < 0 || number > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("--listen is \"", listen,
                                                   "\"; it must be HOST:PORT, as 127.0.0.1:50051, "
                                                   "with a port from 0 (a free one) to 65535"));
  }
  HostPort parts{listen.substr(0, colon), absl::StrCat(number)};
  if (parts.host.front() == '[' && parts.host.back() == ']') {
    parts.host = parts.host.substr(1, parts.host.size() - 2);
  }
  return parts;
}

/// 0 when a server could listen there, else errno.
int TryToBind(const addrinfo& address) {
  const int descriptor =
      socket(address.ai_family, address.ai_socktype | SOCK_CLOEXEC, address.ai_protocol);
  if (descriptor < 0) return errno;
  const int on = 1;  // else connections of an ended server would count as taken
  setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  int error = bind(descriptor, address.ai_addr, address.ai_addrlen) == 0 ? 0 : errno;
  if (error == 0 && listen(descriptor, 1) != 0) error = errno;
  close(descriptor);
  return error;
}

}  // namespace

absl::StatusOr<Programs> FindPrograms() {
  Programs programs;
  const auto find = [](const char* name, bool beside, const char* advice, std::string& path) {
    absl::StatusOr<std::string> found = FindProgram(name, beside, advice);
    if (found.ok()) path = *found;
    return found.status();
  };
  const char* const build = "scripts/build.sh builds it";
  absl::Status status = find("shardline-coordinator", true, build, programs.coordinator);
  if (status.ok()) status = find("shardline-worker", true, build, programs.worker);
  if (status.ok()) {
    status = find("mpirun", false,
                  "install OpenMPI (scripts/setup.sh does; on Debian and Ubuntu it is the package "
                  "openmpi-bin)",
                  programs.mpirun);
  }
  if (!status.ok()) return status;
  return programs;
}

absl::Status CheckModelPath(const std::string& model) {
  std::error_code error;
  if (!fs::exists(model, error)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "no model at \"", model, "\"", error ? absl::StrCat(" (", error.message(), ")") : "",
        "; give a .gguf file, or a Hugging Face directory with config.json and safetensors"));
  }
  if (access(model.c_str(), R_OK) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot read \"", model, "\": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::Status CheckListenAddress(const std::string& listen) {
  const absl::StatusOr<HostPort> parts = Split(listen);
  if (!parts.ok()) return parts.status();
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int failure = getaddrinfo(parts->host.c_str(), parts->port.c_str(), &hints, &found);
  if (failure != 0) {
    return absl::InvalidArgumentError(absl::StrCat("--listen is \"", listen, "\"; its host \"",
                                                   parts->host,
                                                   "\" is unknown: ", gai_strerror(failure)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, &freeaddrinfo);
  const int error = TryToBind(*addresses);
  switch (error) {
    case 0:
      return absl::OkStatus();
    case EADDRINUSE:
      return absl::UnavailableError(absl::StrCat(
          "port ", parts->port, " on ", parts->host,
          " is taken by another program; choose another port with --listen (port 0 takes a free "
          "one). If a cluster of yours is running there, `shardline status --address ",
          listen, "` shows it"));
    case EADDRNOTAVAIL:
      return absl::InvalidArgumentError(
          absl::StrCat("--listen is \"", listen, "\"; ", parts->host,
                       " is not an address of this host (0.0.0.0 is all of them)"));
    default:
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", listen, ": ", std::strerror(error)));
  }
}

}  // namespace shardline::cli

#!/usr/bin/env bash
# Installs what Shardline needs, from Debian or Ubuntu packages. Does nothing when all is there.
#   scripts/setup.sh          to build and run
#   scripts/setup.sh --dev    also to test: sanitizer and fuzzer runtimes, clang-format
set -euo pipefail

packages=(
  g++ cmake ninja-build pkg-config
  libgrpc++-dev libgrpc-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev
  libabsl-dev libopenmpi-dev openmpi-bin openssh-client
  libgtest-dev libgmock-dev libbenchmark-dev
  nlohmann-json3-dev libpcre2-dev libspdlog-dev libcli11-dev
  python3 python3-pip unzip
)
if [ "${1:-}" = --dev ]; then
  packages+=(clang lld clang-format llvm python3-venv)
  version=$(apt-cache depends clang 2>/dev/null | sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p' | head -n 1)
  # The runtimes of sanitizers and libFuzzer are a package of their own since LLVM 14.
  packages+=("libclang-rt-${version:-14}-dev")
fi

if ! command -v dpkg-query >/dev/null; then
  echo "setup: this is neither Debian nor Ubuntu; install the equivalents of:" >&2
  printf '  %s\n' "${packages[@]}" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
  [ "$status" = "install ok installed" ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || {
      echo "setup: run as root, or install sudo; missing packages: ${missing[*]}" >&2
      exit 1
    }
    as_root=(sudo)
  fi
  echo "setup: installing ${#missing[@]} packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null || true)
if [ -n "$nvcc" ]; then
  release=$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
  driver=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1 || true)
  echo "setup: CUDA toolkit $release found, GPU: ${driver:-none}; this release has the CPU backend only"
else
  echo "setup: no CUDA toolkit found; this release has the CPU backend only"
fi
echo "setup: complete"

#!/usr/bin/env bash
# Installs what Shardline needs, from Debian or Ubuntu packages. Does nothing when all is there.
#   scripts/setup.sh          to build and run
#   scripts/setup.sh --dev    also to test: sanitizer and fuzzer runtimes, clang-format, ccache, Slurm
set -euo pipefail

dev=
case ${1:-} in
  "") ;;
  --dev) dev=1 ;;
  *) echo "usage: scripts/setup.sh [--dev]" >&2; exit 2 ;;
esac

packages=(
  g++ cmake ninja-build pkg-config
  libgrpc++-dev libgrpc-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libssl-dev
  libabsl-dev libopenmpi-dev openmpi-bin openssh-client
  libgtest-dev libgmock-dev libbenchmark-dev
  nlohmann-json3-dev libpcre2-dev libicu-dev libspdlog-dev libcli11-dev zlib1g-dev prometheus-cpp-dev
  python3 python3-pip unzip
)
[ -z "$dev" ] || packages+=(clang lld clang-format llvm python3-venv git ccache
  munge slurmctld slurmd slurm-client prometheus iproute2 nftables debootstrap
  openssl)

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "setup: this is neither Debian nor Ubuntu; install the equivalents of these packages:" >&2
  printf '  %s\n' "${packages[@]}" >&2
  [ -z "$dev" ] || echo "  clang's sanitizer and libFuzzer runtimes (compiler-rt)" >&2
  exit 1
fi

missing() {
  local installed
  installed=$(dpkg-query -W -f '${Package} ${Status}\n' "$@" 2>/dev/null |
    sed -n 's/ install ok installed$//p' || true)
  comm -23 <(printf '%s\n' "$@" | sort -u) <(sort -u <<<"$installed")
}

as_root=()
prepared=
install() {
  [ $# -gt 0 ] || return 0
  if [ -z "$prepared" ]; then
    prepared=1
    if [ "$(id -u)" != 0 ]; then
      command -v sudo >/dev/null || {
        echo "setup: run as root, or install sudo; missing packages: $*" >&2
        exit 1
      }
      as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -qq
  fi
  echo "setup: installing $# packages: $*"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

mapfile -t wanted < <(missing "${packages[@]}")
install "${wanted[@]}"
if [ -n "$dev" ]; then
  # The runtimes of sanitizers and libFuzzer are a package of their own, named by clang's version.
  version=$(dpkg-query -W -f '${Depends}' clang | sed -n 's/.*clang-\([0-9]*\).*/\1/p')
  mapfile -t wanted < <(missing "libclang-rt-${version}-dev")
  install "${wanted[@]}"
fi

# The CUDA backend is built (preset cuda) where the toolkit and NCCL are.
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null || true)
if [ -n "$nvcc" ]; then
  release=$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
  gpu=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1 || true)
  folder=$(dirname "$(dirname "$(readlink -f "$nvcc")")")
  header=$(ls /usr/include/nccl.h /usr/local/include/nccl.h "$folder/include/nccl.h" 2>/dev/null | head -n 1 || true)
  library=$(ls "$folder"/lib*/libnccl.so* 2>/dev/null | head -n 1 || true)
  [ -n "$library" ] || library=$(ldconfig -p 2>/dev/null | sed -n 's/.*libnccl\.so[^ ]* .*=> //p' | head -n 1 || true)
  echo "setup: CUDA toolkit $release found (GPU and driver: ${gpu:-none}; NCCL: ${header:-no header}," \
    "${library:-no library}); cmake --workflow --preset cuda builds for it"
else
  echo "setup: no CUDA toolkit found; the CPU backend only"
fi
echo "setup: complete"

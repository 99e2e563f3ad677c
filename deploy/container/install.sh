#!/usr/bin/env bash
# The steps of the image recipes, which also run in a bare root file system:
#   install.sh runtime                  the packages that the programs need to run
#   install.sh build PRESET PREFIX      builds and puts the programs under PREFIX/bin
set -euo pipefail
runtime=(
  libgrpc++1.51 libprotobuf32 libabsl20220623 libopenmpi3 openmpi-bin openssh-client
  libpcre2-8-0 libspdlog1.10 libprometheus-cpp-pull1.0 ca-certificates
)
case ${1:-} in
  runtime)
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${runtime[@]}" >/dev/null
    ;;
  build)
    cd "$(dirname "$0")/../.."
    preset=$2 prefix=$3
    cmake --preset "$preset" >/dev/null
    cmake --build "build/$preset" --target shardline shardline-coordinator shardline-worker
    mkdir -p "$prefix/bin"
    cp "build/$preset"/bin/shardline{,-coordinator,-worker} deploy/container/shardline-replica "$prefix/bin/"
    strip "$prefix"/bin/shardline{,-coordinator,-worker}
    ;;
  *)
    echo "usage: install.sh runtime | build PRESET PREFIX" >&2
    exit 2
    ;;
esac

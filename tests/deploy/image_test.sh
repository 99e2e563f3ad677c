#!/usr/bin/env bash
# The stages of deploy/container in bare root file systems: a package that the recipe forgets is found
# here. The build stage goes as far as its first targets, which need every tool and most libraries; the
# programs of the runtime stage are those of this host, which must be of the recipe's release.
# Usage: image_test.sh FOLDER_OF_PROGRAMS MODEL. Exit code 77: this host cannot do it.
set -euo pipefail
programs=$1
model=$2
source=$(cd "$(dirname "$0")/../.." && pwd)

skip() { echo "skipped: $*"; exit 77; }
base=$(sed -n 's/^ARG BASE=debian:\([0-9]*\).*/\1/p' "$source/deploy/container/Dockerfile")
. /etc/os-release
[ "$ID $VERSION_ID" = "debian $base" ] ||
  skip "the images are Debian $base, and programs built on $PRETTY_NAME do not run there"
[ "$(id -u)" = 0 ] || skip "needs root"
# Mounts and processes of its own, which end with it.
own=(unshare --mount --pid --fork --kill-child)
if [ -z "${SHARDLINE_IMAGE_TEST:-}" ]; then
  "${own[@]}" true 2>/dev/null || skip "nothing can be mounted here"
  SHARDLINE_IMAGE_TEST=1 exec "${own[@]}" "$0" "$@"
fi

work=$(mktemp -d /var/tmp/shardline-image.XXXXXX)
root=$work/runtime builder=$work/build
running=()
clean() {
  [ ${#running[@]} -eq 0 ] || kill "${running[@]}" 2>/dev/null || true
  wait
  # Lazily: what was killed may hold them for a moment more.
  umount -l "$root/proc" "$root/dev/shm" "$builder/proc" 2>/dev/null || true
  rm -rf --one-file-system "$work"
}
trap clean EXIT
chmod 755 "$work"  # the image's user is not root

mirror=$(apt-get indextargets --format '$(SITE)' | grep -m 1 debian)
mkdir -p "$root/etc/dpkg/dpkg.cfg.d"
echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/fast"  # it need not outlive a loss of power
debootstrap --variant=minbase "$VERSION_CODENAME" "$root" "$mirror" >"$work/log" ||
  { tail "$work/log"; exit 1; }
rm -f "$root/etc/apt/sources.list"
cp -a /etc/apt/. "$root/etc/apt/"
chmod 1777 "$root/tmp"
cp /etc/resolv.conf /etc/hosts "$root/etc/"
for ring in /usr/share/keyrings/*; do cp -n "$ring" "$root/usr/share/keyrings/"; done
cp -a "$root" "$builder"
for one in "$root" "$builder"; do mount -t proc proc "$one/proc"; done
mkdir -p "$root/dev/shm" && mount -t tmpfs tmpfs "$root/dev/shm"
echo "root file systems: $SECONDS s"

# The build stage, as the recipe does it.
mkdir "$builder/src"
(cd "$source" && git ls-files -z | xargs -0 cp --parents -t "$builder/src")
chroot "$builder" /src/scripts/setup.sh
echo "build stage, packages: $SECONDS s"
chroot "$builder" env -i PATH=/usr/bin:/bin HOME=/root sh -c 'cd /src && cmake --preset cpu >/dev/null &&
  cmake --build build/cpu --target shardline_logging shardline_security >/dev/null'
echo "build stage, first targets: $SECONDS s"

# The runtime stage.
cp "$source/deploy/container/install.sh" "$root/tmp/"
chroot "$root" /tmp/install.sh runtime
echo "runtime stage, packages: $SECONDS s"
mkdir -p "$root/opt/shardline/bin" "$root/models"
cp "$programs"/shardline{,-coordinator,-worker} "$source/deploy/container/shardline-replica" \
  "$root/opt/shardline/bin/"
cp "$model" "$root/models/model.gguf"

# As the image: not root, and nothing of the root file system may be written but /tmp. In a subshell, of
# which it takes the place.
inside() {
  exec chroot --userspec=10001:10001 "$root" env -i PATH=/opt/shardline/bin:/usr/bin:/bin HOME=/tmp \
    SHARDLINE_MODEL=/models/model.gguf SHARDLINE_TENSOR_PARALLEL_SIZE=2 "$@"
}
(inside shardline --version)
inside shardline-coordinator --listen 127.0.0.1:0 >"$root/coordinator.out" 2>"$root/coordinator.log" &
running+=($!)
until address=$(sed -n 's/^listening on //p' "$root/coordinator.out") && [ -n "$address" ]; do
  kill -0 "${running[0]}" || { cat "$root/coordinator.log"; exit 1; }
  sleep 0.1
done
inside SHARDLINE_COORDINATOR="$address" shardline-replica >"$root/ranks.log" 2>&1 &
running+=($!)
until (inside shardline health --address "$address") >/dev/null 2>&1; do
  kill -0 "${running[1]}" || { cat "$root/ranks.log"; exit 1; }
  sleep 0.1
done
answer=$(inside shardline generate --address "$address" --chat --temperature 0 --max-tokens 12 \
  "What is the capital of France?")
echo "$answer"
grep -q Paris <<<"$answer"
kill -TERM "${running[0]}"
wait "${running[0]}"
wait "${running[1]}"
running=()
echo "ok, $SECONDS s"

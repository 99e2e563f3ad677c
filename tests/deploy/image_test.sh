#!/usr/bin/env bash
# The runtime stage of deploy/container in a bare root file system: a package that the recipe forgets
# is found here. The programs are those of this host, which must be of the recipe's release.
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

root=$(mktemp -d /var/tmp/shardline-image.XXXXXX)
chmod 755 "$root"  # its user is not root
running=()
clean() {
  [ ${#running[@]} -eq 0 ] || kill "${running[@]}" 2>/dev/null || true
  wait
  # Lazily: what was killed may hold them for a moment more.
  umount -l "$root/proc" "$root/dev/shm" 2>/dev/null || true
  rm -f "$root.log"
  rm -rf --one-file-system "$root"
}
trap clean EXIT

mirror=$(apt-get indextargets --format '$(SITE)' | grep -m 1 debian)
mkdir -p "$root/etc/dpkg/dpkg.cfg.d"
echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/fast"  # it need not outlive a loss of power
debootstrap --variant=minbase "$VERSION_CODENAME" "$root" "$mirror" >"$root.log" ||
  { tail "$root.log"; exit 1; }
echo "root file system: $SECONDS s"
rm -f "$root/etc/apt/sources.list"
cp -a /etc/apt/. "$root/etc/apt/"
chmod 1777 "$root/tmp"
cp /etc/resolv.conf /etc/hosts "$root/etc/"
for ring in /usr/share/keyrings/*; do cp -n "$ring" "$root/usr/share/keyrings/"; done
mount -t proc proc "$root/proc"
mkdir -p "$root/dev/shm" && mount -t tmpfs tmpfs "$root/dev/shm"

cp "$source/deploy/container/install.sh" "$root/tmp/"
chroot "$root" /tmp/install.sh runtime
echo "packages: $SECONDS s"
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

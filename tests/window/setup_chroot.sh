#!/bin/bash
# A Debian system with a windowed Blender in a folder of its own.
#   setup_chroot.sh SUITE FOLDER        sid: newest Blender, trixie: 4.3
# Needs root and Debian; fetches about 300 MB from the mirror of this system and takes about 1.2 GB.
set -euo pipefail
[ $# = 2 ] || { sed -n '2,4s/^# //p' "$0"; exit 2; }
suite=$1 root=$2
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin

if ! command -v debootstrap >/dev/null; then
    apt-get update
    apt-get install -y --no-install-recommends debootstrap
fi
mirror=$(awk '/^URIs:/ {print $2; exit}' /etc/apt/sources.list.d/debian.sources)
debootstrap --variant=minbase "$suite" "$root" "$mirror"
cp /etc/resolv.conf "$root/etc/"
# A mirror may lag behind with sid's short-lived release file.
echo 'Acquire::Check-Valid-Until "false";' > "$root/etc/apt/apt.conf.d/90late-mirror"

trap 'umount "$root/dev" "$root/proc"' EXIT
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
chroot "$root" apt-get update
# Blender's extension code imports the three Python packages without depending on them.
chroot "$root" apt-get install -y --no-install-recommends blender \
    python3-numpy python3-cattr python3-requests \
    xvfb libgl1-mesa-dri libgl1 libegl1 imagemagick
chroot "$root" apt-get clean
chroot "$root" blender --version

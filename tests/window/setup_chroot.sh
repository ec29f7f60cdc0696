#!/bin/bash
# Creates a Debian system with windowed Blender in a folder.
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
# The release file of sid is valid only briefly, and a mirror may lag behind.
echo 'Acquire::Check-Valid-Until "false";' > "$root/etc/apt/apt.conf.d/90late-mirror"

trap 'umount "$root/dev" "$root/proc"' EXIT
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
chroot "$root" apt-get update
# Blender's extension code imports the three Python packages, but its package does not depend on them.
chroot "$root" apt-get install -y --no-install-recommends blender \
    python3-numpy python3-cattr python3-requests \
    xvfb libgl1-mesa-dri libgl1 libegl1 imagemagick xdotool
chroot "$root" apt-get clean
chroot "$root" blender --version

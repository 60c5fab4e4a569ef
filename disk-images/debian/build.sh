#!/bin/bash
# Builds debian.img: a bootable Debian 12 disk with the programs that the tests use.
#
# Usage: disk-images/debian/build.sh [OUT]
#        OUT defaults to $FTEMU_GUESTS/debian (~/.cache/ftemu-guests/debian)
#
# Makes (nothing is done when they are there already):
#   debian.img              2 GiB raw, sparse: GRUB (i386-pc) from sector 0, ext4 at 1 MiB
#   ssh_key, ssh_key.pub    a client key that root accepts (root's password is "ftemu")
#   known_hosts             the guest's host key, for the address 10.0.2.15
#   packages                the packages in it, with versions
#
# The guest: Linux generic amd64, systemd, sshd, redis, nginx, sqlite3, gcc, make, python3 with
# its test suite, curl, openssl. root is logged in on ttyS0 (115200) without a password; tty1 has
# an ordinary login. When the system is up it prints "GUEST-READY <uptime>" on ttyS0. eth0 (an
# e1000) has the address 10.0.2.15/24 with the gateway 10.0.2.2, which is also what QEMU's user
# network expects, and asks for another one by DHCP at the same time.
#
# Needs: apt-get, mmdebstrap, e2fsprogs, fdisk, grub-pc-bin, grub-common, openssh-client; as
# another user than root also fakeroot and user namespaces. No loop device, mount on the host or
# virtual machine. About 300 MB are downloaded. The bytes are the same for the same packages but
# for the keys and what directory order puts where.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../packages.sh
. "$here/../packages.sh"
out=$(realpath -m "${1:-$(guests_dir)/debian}")
PATH=$PATH:/usr/sbin:/sbin
export SOURCE_DATE_EPOCH=1735689600 # 2025-01-01
image_mib=2048
uuid=f7e3a1c2-6d2b-4c55-9f0e-0123456789ab

# An image of another recipe is made anew.
recipe=$(cat "$here"/build.sh "$here"/customize.sh "$here"/initramfs-modules | sha256sum)
if [ -s "$out/debian.img" ] && [ -s "$out/ssh_key" ] &&
  [ "$(cat "$out/recipe" 2>/dev/null)" = "$recipe" ]; then
  echo "$out/debian.img is there"
  exit 0
fi
mkdir -p "$out"
tmp=$(mktemp -d "$out/build.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

packages=(
  systemd-sysv udev dbus login passwd kmod iproute2 iputils-ping procps util-linux
  linux-image-amd64 initramfs-tools
  openssh-server redis-server redis-tools nginx-light sqlite3 openssl curl netcat-openbsd
  gcc libc6-dev make python3 libpython3.11-testsuite
)

# The whole file system as a tar file, made by mmdebstrap without touching the host.
make_root() {
  debian_sources "$tmp/sources"
  ssh-keygen -q -t ed25519 -N '' -C ftemu-guest -f "$tmp/ssh_key"
  local mode=unshare joined skip=()
  if [ "$(id -u)" = 0 ]; then
    mode=root
    # A container may be root and yet not be allowed to mount.
    unshare -m true 2>/dev/null || skip=(--skip=check/canmount)
  fi
  joined=$(IFS=,; echo "${packages[*]}")
  mmdebstrap --mode=$mode "${skip[@]}" --variant=minbase --include="$joined" \
    --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
    --aptopt='Acquire::Retries "3"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/lintian/*' \
    --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"' \
    --essential-hook="copy-in $here/initramfs-modules /tmp" \
    --essential-hook='mv "$1/tmp/initramfs-modules" "$1/etc/initramfs-tools/modules"' \
    --essential-hook='printf "MODULES=list\nCOMPRESS=gzip\n" \
      >"$1/etc/initramfs-tools/conf.d/guest"' \
    --customize-hook="copy-in $here/customize.sh $tmp/ssh_key.pub /tmp" \
    --customize-hook='"$1/tmp/customize.sh" "$1" "$1/tmp/ssh_key.pub"' \
    --customize-hook="copy-out /etc/ssh/ssh_host_ed25519_key.pub /packages.list $tmp" \
    --customize-hook='rm "$1/packages.list" "$1/tmp/customize.sh" "$1/tmp/ssh_key.pub"' \
    bookworm "$tmp/root.tar" "$tmp"/sources/*
}

# core.img: GRUB with the modules that reach /boot/grub/grub.cfg on the first partition built in.
make_grub() {
  local modules=/usr/lib/grub/i386-pc
  grub-mkimage -O i386-pc -d "$modules" -p '(hd0,msdos1)/boot/grub' -o "$tmp/core.img" \
    biosdisk part_msdos ext2 normal linux serial terminal configfile echo test sleep ls cat \
    reboot halt
  if [ "$(stat -c %s "$tmp/core.img")" -gt $((2047 * 512)) ]; then
    echo "core.img does not fit before the partition" >&2
    exit 1
  fi
  head -c 440 "$modules/boot.img" >"$tmp/boot.img"
}

# Partition table, file system and boot sectors into one sparse file.
make_image() {
  local image="$tmp/debian.img" run=()
  [ "$(id -u)" = 0 ] || run=(fakeroot)
  truncate -s ${image_mib}M "$image"
  printf 'label: dos\nlabel-id: 0x46544d55\nstart=2048, type=83, bootable\n' | sfdisk -q "$image"
  # One process keeps the owners that tar restores until mke2fs has read them, also under fakeroot.
  E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH "${run[@]}" bash -euc '
    mkdir "$1/root"
    tar -xf "$1/root.tar" -C "$1/root" --numeric-owner
    mke2fs -q -F -t ext4 -L debian -U "$3" -O ^metadata_csum_seed,^orphan_file \
      -E "offset=1048576,hash_seed=$3,root_owner=0:0,lazy_itable_init=0" -d "$1/root" "$2" "$4"
  ' make "$tmp" "$image" $uuid $((image_mib - 1))M
  dd if="$tmp/boot.img" of="$image" conv=notrunc status=none
  dd if="$tmp/core.img" of="$image" bs=512 seek=1 conv=notrunc status=none
}

make_root
make_grub
make_image
sed 's/^/10.0.2.15 /' "$tmp/ssh_host_ed25519_key.pub" >"$out/known_hosts"
mv "$tmp/packages.list" "$out/packages"
mv "$tmp/ssh_key" "$tmp/ssh_key.pub" "$out/"
chmod 600 "$out/ssh_key"
mv "$tmp/debian.img" "$out/debian.img"
echo "$recipe" >"$out/recipe"
ls -ls "$out"

#!/bin/bash
# Builds the Linux guests that boot straight from a kernel and an initrd, from Debian's packages.
#
# Usage: disk-images/linux/build.sh [OUT]
#        OUT defaults to $FTEMU_GUESTS/linux (~/.cache/ftemu-guests/linux)
#
# Makes, and leaves alone what is there already:
#   vmlinuz-cloud     Debian's cloud amd64 kernel           with initrd.gz
#   vmlinuz-generic   Debian's generic amd64 kernel         with initrd.gz, or initrd-generic.gz,
#                     which also loads the PIIX IDE, e1000 and ext4 modules
#   vmlinuz-i386      Debian's 686-pae kernel               with initrd-i386.gz
#   initrd*.gz        busybox and the init beside this script (see there for run="COMMAND")
#   busybox           the static amd64 busybox
#   versions          the packages they came from
#
# Boot one:  ftemu boot --kernel vmlinuz-cloud --initrd initrd.gz --append console=ttyS0
# Needs: apt-get and dpkg-deb (a Debian machine), cpio, gzip, kmod's modinfo. Needs no
# root. The same packages give the same bytes. About 130 MB are downloaded once.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../packages.sh
. "$here/../packages.sh"
out=$(realpath -m "${1:-$(guests_dir)/linux}")
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$out"

# Debian's own path for modinfo is not in every user's PATH.
PATH=$PATH:/usr/sbin:/sbin

lists_ready=
lists() {
  case " $lists_ready " in *" $1 "*) return ;; esac
  private_apt "$1" "$tmp/apt-$1"
  lists_ready="$lists_ready $1"
}

# Unpacks the kernel behind META and keeps its image: kernel ARCH META NAME
kernel() {
  local arch=$1 meta=$2 name=$3 package
  lists "$arch"
  package=$(real_package "$arch" "$tmp/apt-$arch" "$meta")
  fetch_package "$arch" "$tmp/apt-$arch" "$package" "$tmp/kernel-$name"
  cp "$tmp/kernel-$name"/boot/vmlinuz-* "$out/vmlinuz-$name.part"
  cp "$tmp/kernel-$name"/boot/config-* "$out/config-$name"
  mv "$out/vmlinuz-$name.part" "$out/vmlinuz-$name"
  touch "$out/versions"
  sed -i "/^vmlinuz-$name:/d" "$out/versions"
  echo "vmlinuz-$name: $package" >>"$out/versions"
}

# Copies a module and, before it, those it depends on: module KERNEL_ROOT NAME TO
module() {
  local root=$1 name=$2 to=$3 file dependency
  file=$(find "$root/lib/modules" \( -name "$name.ko" -o -name "${name//_/-}.ko" \) -print -quit)
  [ -n "$file" ] || return 0 # built in
  [ ! -e "$to/$(basename "$file")" ] || return 0
  for dependency in $(modinfo -F depends "$file" | tr ',' ' '); do
    module "$root" "$dependency" "$to"
  done
  cp "$file" "$to/"
  basename "$file" >>"$to/order"
}

# Packs busybox of ARCH, the init script and optionally a directory of modules: initrd ARCH OUT
# [MODULES]
initrd() {
  local arch=$1 name=$2 modules=${3:-} root="$tmp/root-$2"
  if [ ! -d "$tmp/busybox-$arch" ]; then
    lists "$arch"
    fetch_package "$arch" "$tmp/apt-$arch" busybox-static "$tmp/busybox-$arch"
  fi
  mkdir -p "$root/bin" "$root/dev"
  cp "$tmp/busybox-$arch/bin/busybox" "$root/bin/busybox"
  install -m 755 "$here/init" "$root/init"
  [ -z "$modules" ] || cp -r "$modules" "$root/modules"
  pack_initrd "$root" "$out/$name"
}

[ -s "$out/vmlinuz-cloud" ] || kernel amd64 linux-image-cloud-amd64 cloud
if [ ! -s "$out/initrd.gz" ]; then
  initrd amd64 initrd.gz
  cp "$tmp/busybox-amd64/bin/busybox" "$out/busybox"
fi
if [ ! -s "$out/vmlinuz-generic" ] || [ ! -s "$out/initrd-generic.gz" ]; then
  kernel amd64 linux-image-amd64 generic
  mkdir -p "$tmp/modules"
  for name in ata_piix ata_generic sd_mod sr_mod ext4 crc32c_generic e1000; do
    module "$tmp/kernel-generic" "$name" "$tmp/modules"
  done
  initrd amd64 initrd-generic.gz "$tmp/modules"
fi
[ -s "$out/vmlinuz-i386" ] || kernel i386 linux-image-686-pae i386
[ -s "$out/initrd-i386.gz" ] || initrd i386 initrd-i386.gz
ls -l "$out"

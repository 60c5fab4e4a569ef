#!/bin/bash
# Builds a small Linux kernel from Debian's linux-source-6.1: boots in a fraction of the time that
# Debian's own kernels take, with the drivers of this board built in, for tests that are run often.
#
# Usage: disk-images/small-kernel/build.sh [OUT]
#        OUT defaults to $FTEMU_GUESTS/small-kernel (~/.cache/ftemu-guests/small-kernel)
#
# Makes (nothing is done when it is there already):
#   vmlinuz-small   64-bit, no modules: serial console, initrd, ACPI, PCI, PIIX IDE, ext4, e1000, IPv4
#   config-small    its configuration
# It boots the busybox initrds of disk-images/linux, and debian.img with root=/dev/sda1.
#
# Needs: a Debian machine with gcc, make, flex, bison, bc, libelf-dev, xz. Takes a few minutes on a
# core and downloads 140 MB. The same source and compiler give the same bytes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=../packages.sh
. "$here/../packages.sh"
out=$(realpath -m "${1:-$(guests_dir)/small-kernel}")
[ ! -s "$out/vmlinuz-small" ] || exit 0
mkdir -p "$out"
tmp=$(mktemp -d "$out/build.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

private_apt amd64 "$tmp/apt"
fetch_package amd64 "$tmp/apt" linux-source-6.1 "$tmp/package"
mkdir "$tmp/source"
tar -xf "$tmp"/package/usr/src/linux-source-6.1.tar.xz -C "$tmp/source" --strip-components=1
rm -rf "$tmp/package"

export KBUILD_BUILD_USER=ftemu KBUILD_BUILD_HOST=ftemu KBUILD_BUILD_TIMESTAMP=2025-01-01
export KBUILD_BUILD_VERSION=1
build() {
  make -s -C "$tmp/source" -j "$(nproc)" "$@" >>"$tmp/log" 2>&1 || { tail -n 30 "$tmp/log" >&2; exit 1; }
}
build tinyconfig
cat "$here/options" >>"$tmp/source/.config"
build olddefconfig
# An option that olddefconfig dropped is a mistake in the list, not a detail.
while read -r option; do
  grep -qx "$option" "$tmp/source/.config" || { echo "the kernel has no $option" >&2; exit 1; }
done < <(grep '^CONFIG_.*=' "$here/options")
build bzImage
cp "$tmp/source/.config" "$out/config-small"
cp "$tmp/source/arch/x86/boot/bzImage" "$out/vmlinuz-small.part"
mv "$out/vmlinuz-small.part" "$out/vmlinuz-small"
ls -l "$out"

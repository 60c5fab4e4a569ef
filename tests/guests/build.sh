#!/bin/bash
# Rebuilds the counting guests (*.S -> *.bin, disk images that any PC BIOS boots) with GNU as and
# ld.
#
# Usage: tests/guests/build.sh [--check]
#        --check compares with the committed images instead of replacing them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
status=0
for source in *.S; do
  name=${source%.S}
  as --64 -o "$tmp/$name.o" "$source"
  ld -m elf_x86_64 -N -e start -Ttext=0x7c00 --oformat binary -o "$tmp/$name.bin" "$tmp/$name.o"
  if [ "${1:-}" = --check ]; then
    cmp "$tmp/$name.bin" "$name.bin" || status=1
  else
    install -m 644 "$tmp/$name.bin" "$name.bin"
  fi
done
exit $status

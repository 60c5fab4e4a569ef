#!/bin/bash
# Runs the counting guests (tests/guests/*.bin) under QEMU and compares what they print with
# counts.txt.
#
# Usage: tests/oracle/qemu_counts.sh
#            qemu-system-x86_64 -icount shift=0, against the column "qemu"
#        tests/oracle/qemu_counts.sh COMMAND [ARG...]
#            another emulator, against the column "count": the image is its last argument and its
#            standard output the guest's serial console, for example
#            qemu_counts.sh target/release/ftemu boot --snapshot --serial stdio --rate 1
# The guest's exit status must be 1 (isa-debug-exit with 0). Prints each number; the status is 1
# when one differs.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
column=3
[ $# -gt 0 ] || column=4

run() {
  local image="$here/../guests/$1.bin"
  shift
  if [ $# -gt 0 ]; then
    timeout 120 "$@" "$image" </dev/null
  else
    timeout 120 qemu-system-x86_64 -accel tcg -icount shift=0 -m 64 -display none -monitor none \
      -serial stdio -no-reboot -nic none -device isa-debug-exit,iobase=0xf4,iosize=1 \
      -drive "file=$image,format=raw,if=ide,snapshot=on" </dev/null
  fi
}

wrong=0
for guest in straight loops faults strings; do
  status=0
  printed=$(run "$guest" "$@" | tr -d '\r') || status=$?
  [ "$status" = 1 ] || { echo "$guest: exit status $status instead of 1"; wrong=1; }
  while read -r name want; do
    got=$(awk -v n="$name" '$1 == n { print $2 }' <<<"$printed")
    if [ "$got" = "$want" ]; then verdict=ok; else verdict="WRONG, expected $want" wrong=1; fi
    printf '%-16s %8s  %s\n' "$name" "${got:--}" "$verdict"
  done < <(awk -v g="$guest" -v c=$column '$1 == g { print $2, $c }' "$here/counts.txt")
done
exit $wrong

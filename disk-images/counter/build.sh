#!/bin/sh
# Builds the image of the demo guest: the same bytes wherever Rust has the same version.
#
#   ./build.sh           writes counter.img
#   ./build.sh --check   fails if counter.img is not what the source gives
#
# Needs Rust for x86_64-unknown-linux-gnu and objcopy (binutils, which gcc brings).
set -eu

TARGET=x86_64-unknown-linux-gnu
SYSTEM_SECTOR=64                      # as in src/boot.S
IMAGE_SECTORS=512                     # 256 KiB

fail() { echo "build.sh: $*" >&2; exit 1; }

# Adds a flag of the compiler to $flags, which are separated by the byte 0x1F as Cargo wants them.
separator=$(printf '\037')
flags=
flag() { flags="${flags:+$flags$separator}$1"; }

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
cd "$here"
case ${1-} in
    '') output=counter.img ;;
    --check) output=target/check.img ;;
    *) fail "usage: build.sh [--check]" ;;
esac

# What the environment says about building is for hosts, not for this guest.
unset RUSTFLAGS RUSTC_WRAPPER CARGO_BUILD_RUSTFLAGS CARGO_BUILD_TARGET CARGO_INCREMENTAL
cargo fetch --quiet --locked --target "$TARGET"

flag -Crelocation-model=static
flag -Ccode-model=small
flag -Cno-redzone=y
for argument in -nostartfiles -nostdlib -static -Wl,--build-id=none "-Wl,-T$here/layout.ld"; do
    flag "-Clink-arg=$argument"
done
# Panic messages name source files: leave the places of this machine out of them.
flag "--remap-path-prefix=$here=."
for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/; do
    flag "--remap-path-prefix=${registry%/}=registry"
done
rust_commit=$(rustc -vV | sed -n 's/^commit-hash: //p')
flag "--remap-path-prefix=$(rustc --print sysroot)/lib/rustlib/src/rust=/rustc/$rust_commit"

# With --target the flags reach the guest alone, not the build scripts of its dependencies.
CARGO_ENCODED_RUSTFLAGS=$flags \
    cargo build --quiet --locked --release --target "$TARGET" --target-dir target
elf=target/$TARGET/release/counter

objcopy -O binary -j .boot "$elf" target/boot.bin
objcopy -O binary -j .text -j .rodata -j .data "$elf" target/system.bin
[ "$(wc -c < target/boot.bin)" -eq 4096 ] || fail "the loader is not eight sectors long"
end=$(( SYSTEM_SECTOR * 512 + $(wc -c < target/system.bin) ))
[ "$end" -le $(( IMAGE_SECTORS * 512 )) ] || fail "the system ends at byte $end of the disk"

rm -f "$output.new"
dd if=/dev/zero of="$output.new" bs=512 count="$IMAGE_SECTORS" 2>/dev/null
dd if=target/boot.bin of="$output.new" bs=512 conv=notrunc 2>/dev/null
dd if=target/system.bin of="$output.new" bs=512 seek="$SYSTEM_SECTOR" conv=notrunc 2>/dev/null
mv "$output.new" "$output"

if [ "$output" != counter.img ]; then
    cmp "$output" counter.img || fail "counter.img is not from this source and $(rustc --version)"
    echo "counter.img is what the source gives"
fi

//! Real guests, built by `disk-images/` into `$FTEMU_GUESTS` (default `~/.cache/ftemu-guests`) and
//! driven by `tests/real/run.py`.
//!
//! A guest that has not been built is left out with a message, so that the tests pass on a machine
//! with nothing but Rust; `.ci/run` builds them first and sets `FTEMU_GUESTS_REQUIRED`, which turns
//! the message into a failure. `FTEMU_BIN` names another build of ftemu to drive than this one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the guests are.
fn guests() -> PathBuf {
    std::env::var_os("FTEMU_GUESTS").filter(|path| !path.is_empty()).map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/ftemu-guests"),
        PathBuf::from,
    )
}

/// Runs one check of `run.py`, unless `image` is missing.
fn check(name: &str, image: &str) {
    let path = guests().join(image);
    if !path.exists() {
        let required = std::env::var_os("FTEMU_GUESTS_REQUIRED").is_some();
        assert!(!required, "{} has not been built", path.display());
        eprintln!("{name}: left out, {} has not been built (see disk-images)", path.display());
        return;
    }
    let binary = std::env::var_os("FTEMU_BIN").unwrap_or(env!("CARGO_BIN_EXE_ftemu").into());
    let done = Command::new("python3")
        .env("FTEMU_GUESTS", guests())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/run.py"))
        .arg(binary)
        .arg(name)
        .stdin(Stdio::null())
        .output()
        .expect("python3 is installed where guests can be built");
    let said = String::from_utf8_lossy(&done.stdout);
    println!("{said}");
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn debian_cloud_kernel_to_a_shell_and_off() {
    check("cloud", "linux/vmlinuz-cloud");
}

#[test]
fn debian_generic_kernel_to_a_shell_and_off() {
    check("generic", "linux/vmlinuz-generic");
}

#[test]
fn debian_i386_kernel_to_a_shell_and_off() {
    check("i386", "linux/vmlinuz-i386");
}

#[test]
fn i386_programs_on_debian_cloud_kernel() {
    check("compatibility", "linux/vmlinuz-cloud");
}

#[test]
fn debian_generic_kernel_on_the_lan() {
    check("lan", "linux/vmlinuz-generic");
}

#[test]
fn debian_cloud_kernel_on_both_engines() {
    check("engines", "linux/vmlinuz-cloud");
}

#[test]
fn recorded_boot_replays() {
    check("replay", "linux/vmlinuz-cloud");
}

#[test]
fn debian_disk_over_serial() {
    check("serial", "debian/debian.img");
}

//! Instruction counts: the guests in `tests/guests` print how many instructions their sections
//! retired; `tests/oracle/counts.txt` says how many that must be, and where QEMU's
//! `-icount shift=0` prints something else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A file below `tests/`.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

/// The counts that a guest must print, from `counts.txt`.
fn expected(guest: &str) -> BTreeMap<String, u64> {
    let table =
        std::fs::read_to_string(file("oracle/counts.txt")).expect("counts.txt is committed");
    table
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.first() == Some(&guest))
        .map(|fields| (fields[1].to_owned(), fields[2].parse().expect("a number")))
        .collect()
}

/// Boots a guest and compares every count that it prints.
fn check(guest: &str) {
    let done = Command::new(env!("CARGO_BIN_EXE_ftemu"))
        .args([
            "boot",
            "--snapshot",
            "--serial",
            "stdio",
            "--net",
            "none",
            "-m",
            "64M",
            "--rate",
            "1",
        ])
        .arg(file(&format!("guests/{guest}.bin")))
        .stdin(Stdio::null())
        .output()
        .expect("ftemu starts");
    let printed = String::from_utf8_lossy(&done.stdout);
    let messages = String::from_utf8_lossy(&done.stderr);
    let counts: BTreeMap<String, u64> = printed
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?)))
        .collect();
    let expected = expected(guest);
    assert!(!expected.is_empty(), "counts.txt knows no guest {guest}");
    assert_eq!(counts, expected, "{guest} printed {printed:?}; ftemu said {messages:?}");
    assert_eq!(done.status.code(), Some(1), "isa-debug-exit 0 makes exit status 1: {messages}");
}

#[test]
fn straight_line_code() {
    check("straight");
}

#[test]
fn loops_calls_and_indirect_jumps() {
    check("loops");
}

#[test]
fn faults_and_traps() {
    check("faults");
}

#[test]
fn repeated_string_instructions() {
    check("strings");
}

//! The rules of the tree as a test: layering, bans, sizes, headers.
//!
//! A rule that old code breaks has a ratchet: a number that may only go down.

use std::fs;
use std::path::{Path, PathBuf};

/// Crates below the pure line, with the workspace crates that each may use.
const PURE: &[(&str, &[&str])] = &[
    ("devices", &[]),
    ("firmware", &["devices"]),
    ("emulator", &["devices", "firmware"]),
    ("ft", &[]),
];
/// Crates above it.
const SHELLS: &[(&str, &[&str])] = &[
    ("devices/backends", &["devices"]),
    ("devices/lan", &["backends"]),
    ("emulator/jit", &["emulator", "devices"]),
    ("ft/drivers", &["ft", "emulator", "devices", "backends", "firmware"]),
];
/// Words that no pure crate may use: the host must not reach the guest except as an input.
const BANNED: &[&str] = &[
    "std::",
    "HashMap",
    "HashSet",
    "SystemTime",
    "thread_local",
    "static mut",
    "println!",
    "dbg!",
    "todo!",
    "unimplemented!",
];
/// Where `unsafe` may stand, besides tests.
const ISLANDS: &[&str] = &[
    "devices/backends/src/",
    "emulator/jit/src/",
    "tests/conformance/src/",
    "tests/sweep/src/fork.rs",
    "disk-images/",
];

/// Ratchet: lines over 100 columns.
const WIDE_LINES: usize = 23;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every `.rs` file of the tree with its path from the root.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the tree") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                let short = path.strip_prefix(root()).expect("below the root");
                found.push((short.display().to_string(), text));
            }
        }
    }
    found.sort();
    assert!(found.len() > 100, "the walk found the tree");
    found
}

/// The text before the first test module.
fn without_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod ").map_or(text, |at| &text[..at])
}

fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.starts_with("tests/") || path.ends_with("tests.rs")
}

/// The part of a line that is code.
fn code(line: &str) -> &str {
    let line = line.trim_start();
    if line.starts_with("//") { "" } else { line.split(" // ").next().unwrap_or(line) }
}

fn report(broken: Vec<String>, rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

/// Names of the workspace crates among the normal dependencies of a manifest.
fn dependencies(folder: &str) -> Vec<String> {
    let manifest = fs::read_to_string(Path::new(&root()).join(folder).join("Cargo.toml"));
    let manifest = manifest.expect("a manifest");
    let all = ["devices", "backends", "lan", "emulator", "jit", "ft", "drivers", "firmware"];
    let mut inside = false;
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if all.contains(&name) {
                found.push(name.to_string());
            }
        }
    }
    found
}

#[test]
fn crates_use_only_the_layers_below() {
    let mut broken = Vec::new();
    for (folder, allowed) in PURE.iter().chain(SHELLS) {
        for used in dependencies(folder) {
            if !allowed.contains(&used.as_str()) {
                broken.push(format!("{folder} uses {used}"));
            }
        }
    }
    report(broken, "layering (docs/architecture.md)");
}

#[test]
fn pure_crates_are_pure() {
    let mut broken = Vec::new();
    for (folder, _) in PURE {
        let lib = fs::read_to_string(root().join(folder).join("src/lib.rs")).expect("lib.rs");
        for wanted in ["#![no_std]", "#![forbid(unsafe_code)]"] {
            if !lib.contains(wanted) {
                broken.push(format!("{folder}/src/lib.rs lacks {wanted}"));
            }
        }
    }
    for (path, text) in sources() {
        let pure = PURE.iter().any(|(folder, _)| path.starts_with(&format!("{folder}/src/")));
        if !pure || is_test(&path) || path.ends_with("properties.rs") {
            continue;
        }
        for (n, line) in without_tests(&text).lines().enumerate() {
            for word in BANNED {
                if code(line).contains(word) {
                    broken.push(format!("{path}:{}: {word}", n + 1));
                }
            }
        }
    }
    report(broken, "the core knows no host");
}

#[test]
fn unsafe_code_stays_in_its_islands_and_says_why() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let island = ISLANDS.iter().any(|i| path.starts_with(i)) || is_test(&path);
        if !island && path != "tests/tidy.rs" {
            for (n, line) in text.lines().enumerate() {
                if code(line).contains("unsafe {") || code(line).contains("unsafe fn") {
                    broken.push(format!("{path}:{}", n + 1));
                }
            }
        }
    }
    report(broken, "unsafe outside the islands");
}

#[test]
fn files_have_a_header_and_a_bearable_size() {
    let mut broken = Vec::new();
    let mut wide = 0;
    for (path, text) in sources() {
        if !text.starts_with("//!") && !text.starts_with("#!") {
            broken.push(format!("{path}: no //! header"));
        }
        let lines = without_tests(&text).lines().count();
        if lines > 1000 {
            broken.push(format!("{path}: {lines} lines"));
        }
        wide += text.lines().filter(|l| l.chars().count() > 100).count();
    }
    // Prose and macro tables that rustfmt leaves alone.
    assert!(wide <= WIDE_LINES, "{wide} lines over 100 columns, at most {WIDE_LINES}");
    report(broken, "headers and sizes");
}

#[test]
fn no_test_is_ignored_and_nothing_unwraps_in_silence() {
    let mut broken = Vec::new();
    let mut unwraps = 0;
    for (path, text) in sources() {
        if path == "tests/tidy.rs" {
            continue;
        }
        if text.contains("#[ignore") {
            broken.push(format!("{path}: #[ignore]"));
        }
        if !is_test(&path) && !path.starts_with("disk-images/") {
            unwraps += without_tests(&text)
                .lines()
                .filter(|line| code(line).contains(".unwrap()"))
                .count();
        }
    }
    report(broken, "tests run or are not there");
    assert!(unwraps == 0, "{unwraps} unwrap() outside tests: expect(\"why it holds\")");
}

#[test]
fn no_common_rooms() {
    let bad = ["utils", "util", "common", "helpers", "helper", "manager", "misc"];
    let broken = sources()
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| path.split('/').any(|part| bad.contains(&part.trim_end_matches(".rs"))))
        .collect();
    report(broken, "a name says what is inside");
}

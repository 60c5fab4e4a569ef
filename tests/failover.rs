//! A pair of real processes, killed and divided by `tests/failover/run.py`, and what its clients
//! saw.
//!
//! The short scenarios, with the embedded counter guest, which ends them in well under two minutes:
//! on one computer over `ftemu lan`, and on three computers as network namespaces with TAP devices.
//! Where namespaces cannot be had that one is left out with a message; `FTEMU_GUESTS_REQUIRED`,
//! which `.ci/run` sets, takes that for a failure if root runs it. `FTEMU_BIN` names another build
//! of ftemu to drive.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// What run.py exits with when this computer cannot make namespaces.
const LEFT_OUT: i32 = 77;

/// One at a time: they measure time, and two sides and their clients are enough for a small
/// computer.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs scenarios in a world.
fn play(world: &str, scenarios: &[&str]) {
    // A crowded computer may leave a process alone for a while: that is no failure here.
    play_with(world, &["--option=--timeout", "--option=2000"], scenarios);
}

/// The same with these flags for both sides.
fn play_with(world: &str, flags: &[&str], scenarios: &[&str]) {
    let options = ["--world", world, "--limit", "110"];
    run("run.py", &[&options, flags, scenarios].concat());
}

/// Runs one of the programs with this build of ftemu and these words.
fn run(program: &str, words: &[&str]) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let binary = std::env::var_os("FTEMU_BIN").unwrap_or(env!("CARGO_BIN_EXE_ftemu").into());
    let done = Command::new("python3")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("FAILOVER_PATIENCE", "20")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/failover").join(program))
        .arg(binary)
        .args(words)
        .stdin(Stdio::null())
        .output();
    let done = match done {
        Ok(done) => done,
        Err(error) => return left_out(program, &format!("python3: {error}")),
    };
    let said = String::from_utf8_lossy(&done.stdout);
    println!("{said}");
    if done.status.code() == Some(LEFT_OUT) {
        return left_out(program, said.trim());
    }
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
}

/// A computer without namespaces is no failure, but in the gate as root.
fn left_out(program: &str, why: &str) {
    let required = std::env::var_os("FTEMU_GUESTS_REQUIRED").is_some();
    assert!(!required || !rustix::process::geteuid().is_root(), "{program}: {why}");
    eprintln!("{program}: {why}");
}

#[test]
fn without_a_pair_every_client_notices() {
    play("tap", &["control"]);
}

#[test]
fn without_a_pair_every_client_notices_behind_a_forwarded_port() {
    play("lan", &["control"]);
}

#[test]
fn three_kills_and_more_on_three_computers() {
    play("tap", &["kills:3", "silence", "hang", "strangers", "poweroff"]);
}

#[test]
fn two_kills_and_more_behind_a_forwarded_port() {
    play("lan", &["kills:2", "joining:1", "hang", "poweroff"]);
}

#[test]
fn a_kill_with_the_times_that_nobody_asked_for() {
    play_with("lan", &[], &["kills:1", "poweroff"]);
}

#[test]
fn two_laptops_as_the_document_says() {
    run("walkthrough.py", &["--limit", "110"]);
}

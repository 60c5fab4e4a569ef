//! A pair of real processes, killed and divided by `tests/failover/run.py`, and what its clients saw.
//!
//! The short scenarios, with the embedded counter guest, which ends them in well under two minutes: on
//! one computer over `ftemu lan`, and on three computers as network namespaces with TAP devices. Where
//! namespaces cannot be had that one is left out with a message; `FTEMU_GUESTS_REQUIRED`, which `.ci/run`
//! sets, takes that for a failure if root runs it. `FTEMU_BIN` names another build of ftemu to drive.

use std::path::Path;
use std::process::{Command, Stdio};

/// What run.py exits with when this computer cannot make namespaces.
const LEFT_OUT: i32 = 77;

/// Runs scenarios in a world.
fn play(world: &str, scenarios: &[&str]) {
    let binary = std::env::var_os("FTEMU_BIN").unwrap_or(env!("CARGO_BIN_EXE_ftemu").into());
    let done = Command::new("python3")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("FAILOVER_PATIENCE", "20")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/failover/run.py"))
        .arg(binary)
        .args(["--world", world, "--limit", "110"])
        .args(scenarios)
        .stdin(Stdio::null())
        .output();
    let done = match done {
        Ok(done) => done,
        Err(error) => return left_out(world, &format!("python3: {error}")),
    };
    let said = String::from_utf8_lossy(&done.stdout);
    println!("{said}");
    if done.status.code() == Some(LEFT_OUT) {
        return left_out(world, said.trim());
    }
    assert!(done.status.success(), "{said}{}", String::from_utf8_lossy(&done.stderr));
}

/// A computer without namespaces is no failure, but in the gate as root.
fn left_out(world: &str, why: &str) {
    let required = std::env::var_os("FTEMU_GUESTS_REQUIRED").is_some();
    assert!(!required || !rustix::process::geteuid().is_root(), "{world}: {why}");
    eprintln!("{world}: {why}");
}

#[test]
fn without_a_pair_every_client_notices() {
    play("tap", &["control"]);
}

#[test]
fn without_a_pair_every_client_notices_behind_a_forwarded_port() {
    play("lan", &["control"]);
}

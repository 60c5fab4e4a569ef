//! A sample of the crash sweep, another one each time. The whole sweep: `cargo run --release -p
//! sweep`.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

const STRIDE: u64 = 101;

#[test]
fn no_crash_of_the_primary_loses_anything() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
    let offset = (now % u128::from(STRIDE)).to_string();
    let out = Command::new(env!("CARGO_BIN_EXE_sweep"))
        .args(["--stride", &STRIDE.to_string(), "--offset", &offset])
        .output()
        .expect("the sweep runs");
    let said = String::from_utf8_lossy(&out.stdout);
    let trouble = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "offset {offset}: {said}{trouble}");
    let entries: u64 = said.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    assert!(entries >= 2000, "{said}");
}

//! `ftemu demo`: what the README promises, with a new backup after each death of the live side.

use std::process::{Command, Stdio};

#[test]
fn the_demo_loses_nothing_and_says_so() {
    let output = Command::new(env!("CARGO_BIN_EXE_ftemu"))
        .args(["demo", "--json", "--failovers", "3"])
        .stdin(Stdio::null())
        .output()
        .expect("the demo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");
    assert_eq!(report["failovers"], 3, "{report}");
    assert_eq!((&report["lost"], &report["repeated"]), (&0.into(), &0.into()), "{report}");
    assert!(report["increments"].as_u64().is_some_and(|n| n > 100), "{report}");
    assert_eq!(report["gap_ms"].as_array().map(Vec::len), Some(3), "{report}");
}

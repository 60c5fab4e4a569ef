//! `--engine`: the same guest on the interpreter, on the JIT and on both in lockstep; logs of one
//! replay on the other.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod ftemu;

use ftemu::*;

const ENGINES: [&str; 3] = ["interpreter", "jit", "both"];

/// Boots the embedded guest for a while, with the same result every time.
fn counted(place: &Place, engine: &str, name: &str, more: &[&str]) -> String {
    let stats = place.path(name);
    let args = ["boot", "--rate", "1", "--serial", "none", "--max-icount", "30000000"];
    let all = [&args[..], &["--engine", engine, "--stats", text(&stats)], more].concat();
    expect_status(&run(&all), 0);
    assert_eq!(place.stat(name, "icount"), 30_000_000);
    place.text(name, "digest")
}

#[test]
fn no_engine_changes_a_digest() {
    let place = Place::new();
    let [want, jit, both] = ENGINES.map(|engine| counted(&place, engine, engine, &[]));
    assert_eq!(jit, want, "the JIT's");
    assert_eq!(both, want, "both engines'");
}

#[test]
fn a_log_replays_on_any_engine() {
    let place = Place::new();
    for recorded in ["interpreter", "jit"] {
        let log = place.path(&format!("{recorded}.log"));
        counted(&place, recorded, "recorded", &["--record", text(&log)]);
        for engine in ENGINES {
            let output = run(&["replay", text(&log), "--engine", engine]);
            expect_status(&output, 0);
        }
    }
}

#[test]
fn a_profile_says_where_the_time_went() {
    let place = Place::new();
    let profile = place.path("profile");
    let symbols = place.path("System.map");
    // All of the guest's code is one function to it.
    std::fs::write(&symbols, "0000000000000000 T everything\n").expect("a file of ours");
    let flags = ["--profile", text(&profile), "--symbols", text(&symbols)];
    counted(&place, "jit", "stats", &flags);
    let read = std::fs::read(&profile).expect("the profile");
    let json: serde_json::Value = serde_json::from_slice(&read).expect("JSON");
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    assert_eq!(number(&json["icount"]), 30_000_000);
    let translated = &json["translated"];
    assert!(number(&translated["blocks"]) > 0 && number(&translated["host_bytes"]) > 0, "{json}");
    let exits = json["exits"].as_object().expect("exits by cause");
    assert!(exits.values().map(number).sum::<u64>() > 0, "{json}");
    let blocks = json["blocks"].as_array().expect("blocks");
    let shares: Vec<f64> = blocks.iter().map(|b| b["share"].as_f64().expect("a share")).collect();
    assert!(shares[0] > 0.01 && shares.is_sorted_by(|a, b| a >= b), "the hottest come first");
    let counted = number(&json["counted_instructions"]);
    assert!((15_000_000..=30_000_000).contains(&counted), "{counted} instructions");
    assert_eq!(number(&json["interpreted_instructions"]), 30_000_000 - counted);
    // The interpreter has no blocks to count.
    let output = run(&["boot", "--engine", "interpreter", "--profile", text(&profile)]);
    expect_status(&output, 2);
}

#[test]
fn both_engines_take_the_same_input() {
    let place = Place::new();
    let disk = place.guest("disk", ECHO);
    let output = run_with(&["boot", text(&disk), "--engine", "both"], b"hello\x01xq");
    expect_status(&output, 0x21);
    assert!(output.stdout.ends_with(b"hello\x01xq"), "{:?}", output.stdout);
    let disk = place.guest("written", WRITE);
    expect_status(&run(&["boot", text(&disk), "--engine", "both"]), 3);
    let image = place.read("written");
    assert_eq!(image[512..1024], image[..512]);
}

//! Seeds: those that are always run, those that failed once, and fresh ones.

use simulation::{Counts, FIXED, once};
use std::time::{SystemTime, UNIX_EPOCH};

fn run(seeds: impl IntoIterator<Item = u64>) -> Counts {
    let mut counts = Counts::default();
    for seed in seeds {
        match once(seed, None, false) {
            Ok(these) => counts.add(&these),
            Err(failure) => panic!(
                "seed {seed}: {failure}\n  cargo run -p simulation --release -- --trace {seed}"
            ),
        }
    }
    counts
}

#[test]
fn a_thousand_seeds_hold() {
    let counts = run(0..1000);
    println!("{counts:?}");
    // What is never exercised is not tested.
    assert!(counts.takeovers > 300 && counts.joined > 1000 && counts.crashes > 1000, "{counts:?}");
    assert!(counts.repeated > 100 && counts.ended > 10 && counts.outputs > 50_000, "{counts:?}");
    assert!(counts.stuck < 5 && counts.given_back > 0, "runs go on to the end: {counts:?}");
}

#[test]
fn seeds_that_failed_once_hold() {
    run(FIXED.iter().copied());
}

#[test]
fn fresh_seeds_hold() {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let first = since.as_nanos() as u64 >> 10;
    println!("seeds {first}..{}", first + 200);
    run(first..first + 200);
}

#[test]
fn a_seed_decides_everything() {
    for seed in 0..20 {
        assert_eq!(once(seed, None, false), once(seed, None, false), "seed {seed}");
    }
}

//! Runs seeds: `simulation --seeds 0..200000 [--planted NAME] [--trace SEED]`.
//!
//! Contract: exit status 0 if every seed held, 1 if one failed, 2 for a wrong command line.
#![forbid(unsafe_code)]

use simulation::{Counts, Mistake, once};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// For the message of a panic.
static SEED: AtomicU64 = AtomicU64::new(0);

struct Wanted {
    seeds: Range<u64>,
    planted: Option<Mistake>,
    trace: bool,
}

fn parse() -> Result<Wanted, String> {
    let mut wanted = Wanted { seeds: 0..1000, planted: None, trace: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        let number = |text: &str| text.parse::<u64>().map_err(|e| format!("{text}: {e}"));
        match word.as_str() {
            "--seeds" => {
                let (from, to) = value.split_once("..").ok_or("--seeds wants FROM..TO")?;
                wanted.seeds = number(from)?..number(to)?;
            }
            "--trace" => {
                let seed = number(&value)?;
                wanted.seeds = seed..seed.checked_add(1).ok_or("too large")?;
                wanted.trace = true;
            }
            "--planted" => {
                let names = || Mistake::all().iter().map(ToString::to_string).collect::<Vec<_>>();
                let known = Mistake::named(&value);
                let known = known.ok_or_else(|| format!("--planted: {}", names().join(", ")))?;
                wanted.planted = Some(known);
            }
            _ => return Err(format!("{word}: no such flag")),
        }
    }
    Ok(wanted)
}

fn run(wanted: &Wanted) -> bool {
    let (began, mut counts, mut failed) = (Instant::now(), Counts::default(), 0u64);
    let mut ran = 0u64;
    for seed in wanted.seeds.clone() {
        SEED.store(seed, Ordering::Relaxed);
        ran += 1;
        match once(seed, wanted.planted, wanted.trace) {
            Ok(these) => counts.add(&these),
            Err(failure) => {
                failed += 1;
                println!("seed {seed}: {failure}");
                if wanted.planted.is_some() || failed == 20 {
                    break;
                }
            }
        }
    }
    println!("{ran} seeds in {:.1} s: {failed} failed; {counts:?}", began.elapsed().as_secs_f64());
    failed == 0
}

fn main() -> ExitCode {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        println!("seed {}: a panic", SEED.load(Ordering::Relaxed));
        hook(info);
    }));
    match parse() {
        Ok(wanted) => ExitCode::from(u8::from(!run(&wanted))),
        Err(what) => {
            eprintln!("simulation: {what}");
            ExitCode::from(2)
        }
    }
}

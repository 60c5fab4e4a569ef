//! The command: `lockstep [--seed N] [--instructions N] [--programs N]`.
//!
//! Runs sessions from seed N on until so many instructions have been compared between the
//! interpreter and the JIT, and exits with 1 at the first difference.

use emulator::accelerator::Accelerator;
use jit::Jit;
use lockstep::session::{self, Counts};
use std::process::ExitCode;

struct Options {
    seed: u64,
    instructions: u64,
    programs: u64,
}

fn options() -> Result<Options, String> {
    let mut options = Options { seed: 1, instructions: 100_000_000, programs: 40 };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag}: a value is missing"))?;
        let parsed = match value.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => value.parse(),
        };
        let number = parsed.map_err(|error| format!("{flag} {value}: {error}"))?;
        match flag.as_str() {
            "--seed" => options.seed = number,
            "--instructions" => options.instructions = number,
            "--programs" => options.programs = number,
            _ => return Err(format!("unknown option {flag}")),
        }
    }
    Ok(options)
}

fn make(capacity: usize) -> Option<Box<dyn Accelerator>> {
    Some(Box::new(Jit::with_capacity(capacity)?.eager()))
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("lockstep: {message}");
            return ExitCode::from(2);
        }
    };
    if Jit::new().is_none() {
        eprintln!("lockstep: this computer cannot run the JIT: there is nothing to compare");
        return ExitCode::from(2);
    }
    let (mut all, mut seed) = (Counts::default(), options.seed);
    while all.instructions < options.instructions {
        match session::run(seed, options.programs, &make) {
            Ok(counts) => all.add(counts),
            Err(text) => {
                println!("{text}\nafter {} instructions without a difference", all.instructions);
                return ExitCode::from(1);
            }
        }
        seed += 1;
    }
    println!(
        "{} instructions in {} programs, {} restarts, {} blocks translated, entered {} times, \
         sessions {:#x} to {:#x}: no difference",
        all.instructions,
        all.programs,
        all.restarts,
        all.blocks,
        all.entries,
        options.seed,
        seed - 1
    );
    ExitCode::SUCCESS
}

//! The crash sweep: the real machine and the protocol in one thread, and the primary dies at every
//! single step of a run: before and after each entry, message, acknowledgement and output.
//!
//! Contract: each crash is tried in a copy of the process (`fork`) taken at that step, in which
//! everything else goes on: the backup takes over and the client finishes its work over the same
//! TCP connection. The client must see every number once and in order, and a machine that is given
//! the survivor's inputs from the joining on, without any crash, must end in the same state. `sweep
//! [--stride N] [--offset N] [--increments N]`; exit status 0: all is well.

mod client;
mod fork;
mod host;
mod world;

use std::process::ExitCode;
use world::{Plan, World};

fn main() -> ExitCode {
    let mut plan = Plan { stride: 1, offset: 0, increments: 900 };
    let mut words = std::env::args().skip(1);
    while let Some(flag) = words.next() {
        let value = words.next().and_then(|word| word.parse().ok());
        match (flag.as_str(), value) {
            ("--stride", Some(stride)) if stride > 0 => plan.stride = stride,
            ("--offset", Some(offset)) => plan.offset = offset,
            ("--increments", Some(increments)) => plan.increments = increments,
            _ => {
                eprintln!("usage: sweep [--stride N] [--offset N] [--increments N]");
                return ExitCode::from(2);
            }
        }
    }
    let began = std::time::Instant::now();
    let mut world = World::new(plan);
    world.form_pair();
    world.run_to_the_end();
    let sums = world.sums();
    println!(
        "{} entries, {} steps, {} crashes tried, {} failed, {:.1} s",
        sums.entries,
        sums.steps,
        sums.crashes,
        sums.failed,
        began.elapsed().as_secs_f64()
    );
    if sums.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
